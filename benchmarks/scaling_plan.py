"""The arithmetic of a batch on many machines, from measured and assumed figures.

    python -m benchmarks.scaling_plan --rate 2000 --load-seconds 3      # as measured by benchmarks.scaling, per worker

Everything else is an assumption with a flag: prices, mean time between failures, networks.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Plan:
    """A batch on many machines. Every field is an assumption, in the unit of its name."""

    machines: int = 1000
    workers_per_machine: int = 16
    rate: float = 2000.0  # tokens per second of one worker
    efficiency: float = 0.95  # of many workers against as many times one
    load_seconds: float = 3.0  # start of a worker, weights on the machine's disk
    model_gigabytes: float = 1.0
    store_gigabits: float = 100.0  # per second, of the place where the weights are
    link_gigabits: float = 10.0  # per second, of a machine
    fan_out: int = 4  # machines that one machine gives the weights to
    dollars_per_hour: float = 0.70  # of a machine
    failure_hours: float = 10_000.0  # mean time between failures of a machine
    tokens_billions: float = 100.0  # of the batch
    tokens_per_request: int = 256
    batch_size: int = 64  # requests in one task

    def lines(self) -> Iterator[str]:
        """Yield the results, one per line."""
        workers = self.machines * self.workers_per_machine
        rate = workers * self.rate * self.efficiency
        seconds = self.tokens_billions * 1e9 / rate
        yield f"workers                    {workers:,}"
        yield f"throughput                 {rate / 1e6:,.1f} million tokens/s"
        yield f"time of the batch          {seconds / 60:,.1f} min"
        yield f"weights, all from a store  {self.machines * self.model_gigabytes * 8 / self.store_gigabits:,.0f} s"
        hops = math.ceil(math.log(self.machines, self.fan_out))
        hop = self.fan_out * self.model_gigabytes * 8 / self.link_gigabits
        yield f"weights, by a tree         {hops * hop:,.0f} s ({hops} hops of {hop:.1f} s)"
        yield f"cold start                 {hops * hop + self.load_seconds:,.0f} s with the tree"
        hours = (seconds + hops * hop + self.load_seconds) / 3600
        dollars = self.machines * self.dollars_per_hour * hours
        million = dollars / self.tokens_billions / 1e3
        yield f"price                      ${dollars:,.0f}; ${million:.4f} per million tokens"
        yield from self._failures(hours, workers)

    def _failures(self, hours: float, workers: int) -> Iterator[str]:
        """Yield the cost of failures: the tasks running on a failed machine are repeated."""
        failures = self.machines * hours / self.failure_hours
        task = self.batch_size * self.tokens_per_request / self.rate
        lost = failures * self.workers_per_machine * (task / 2 + self.load_seconds)
        yield f"failures of a machine      {failures:.3f} expected"
        yield f"work done again            {lost:,.1f} worker seconds of {workers * hours * 3600:,.0f}"
        yield f"one task                   {task:,.1f} s; {workers / task:,.0f} tasks/s for Ray to schedule"


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Plan):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default, help="(default: %(default)s)")
    options = vars(parser.parse_args())
    print(", ".join(f"{name}={value:g}" for name, value in options.items()))
    for line in Plan(**options).lines():
        print(line)


if __name__ == "__main__":
    main()
