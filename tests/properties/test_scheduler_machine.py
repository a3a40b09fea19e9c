"""A state machine that plays engine, model and clients against the scheduler and its blocks."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from decoding.engine.block_manager import BlockManager
from decoding.engine.scheduler import Scheduler
from decoding.engine.sequence import Sequence
from decoding.engine.share import Share
from decoding.testing.scripted import BLOCK_SIZE, ScriptedCache


class FakeTask:
    """A task of n sequences with one prompt. With tails, each sequence has its own scored tokens after the prompt."""

    def __init__(self, arrival, prompt, n, tails, regimes, share, score_from=None, max_score_rows=1000):
        self.arrival, self.prompt, self.n, self.tails, self.regimes = arrival, prompt, n, tails, regimes
        self.share = share
        self.score_from, self.max_score_rows = score_from, max_score_rows
        self.num_made = self.num_admitted = self.num_preempted = 0

    @property
    def num_unstarted(self):
        """Return the number of sequences that have not been made."""
        return self.n - self.num_made

    def next_sequence(self):
        """Return the next sequence."""
        index = self.num_made
        self.num_made += 1
        tail = self.tails[index] if self.tails else []
        rope_length = len(self.prompt) + len(tail)
        score_from = len(self.prompt) if tail else (self.score_from if index == 0 else None)
        return Sequence(
            self,
            index,
            [*self.prompt, *tail],
            num_shared=len(self.prompt),
            rope_length=rope_length,
            rope_regime=self.regimes(rope_length),
            score_from=score_from,
        )

    def on_admitted(self, sequence):
        """Count an admission."""
        self.num_admitted += 1

    def on_preempted(self):
        """Count a preemption."""
        self.num_preempted += 1


REGIMES = {"none": lambda length: 0, "two": lambda length: int(length > 20), "many": lambda length: max(0, length - 20)}


class EngineMachine(RuleBasedStateMachine):
    """Prompts of few distinct blocks arrive, get tokens, finish, and are aborted at any moment."""

    @initialize(
        max_num_seqs=st.integers(1, 4),
        num_blocks=st.integers(2, 14),
        budget=st.integers(1, 40),
        prefix_cache=st.sampled_from([True, True, False]),
        regimes=st.sampled_from(sorted(REGIMES)),
        max_per_request=st.none() | st.integers(1, 3),
    )
    def start(self, max_num_seqs, num_blocks, budget, prefix_cache, regimes, max_per_request):
        """Make a scheduler with a KV cache that is always too small."""
        self.cache = ScriptedCache(num_blocks)
        self.blocks = BlockManager(num_blocks, BLOCK_SIZE, self.cache.copy_block, prefix_cache=prefix_cache)
        self.regimes = REGIMES[regimes]
        self.border = 20 if regimes == "two" else None
        self.scheduler = Scheduler(
            self.blocks,
            max_num_seqs=max_num_seqs,
            max_batched_tokens=budget,
            max_per_request=max_per_request,
            rope_border=self.border,
            rope_regime=self.regimes,
        )
        self.tasks, self.generated, self.arrival, self.share = [], {}, 0, Share()

    @rule(
        blocks=st.lists(st.integers(0, 1), max_size=4),
        rest=st.integers(1, BLOCK_SIZE),
        n=st.integers(1, 5),
        tails=st.booleans(),
        is_scored=st.booleans(),
        is_new=st.booleans(),
    )
    def add(self, blocks, rest, n, tails, is_scored, is_new):
        """Add a prompt that often shares a prefix with others, of the last request or a new one."""
        token_ids = [block for block in blocks for _ in range(BLOCK_SIZE)] + [2] * rest
        token_ids = token_ids[: self.scheduler.max_tokens - 5]
        own = [[5 + index] * (1 + index) for index in range(n)] if tails else None
        self.arrival += 1
        self.share = Share() if is_new else self.share
        scored = (0, 3) if is_scored else (None, 99)
        task = FakeTask(self.arrival, token_ids, n, own, self.regimes, self.share, *scored)
        self.tasks.append(task)
        self.scheduler.add(task.next_sequence())

    @precondition(lambda self: self.scheduler.has_work)
    @rule(token=st.integers(3, 4), ends=st.sets(st.integers(0, 20)), num_draft=st.integers(0, 3), right=st.booleans())
    def step(self, token, ends, num_draft, right):
        """Take a step like the engine; some sequences finish, some have draft tokens."""
        for sequence in self.scheduler.running:
            sequence.num_draft = sequence.num_accepted = 0
            length = len(sequence.token_ids)
            room = self.scheduler.max_tokens - length
            if self.border is not None and sequence.rope_length <= self.border:
                room = min(room, self.border - length)
            sequence.draft = [token if right else 9] * max(0, min(num_draft, room))
        batch = self.scheduler.schedule()
        assert batch, "the oldest sequence always makes progress"
        self.scheduler.schedule_drafts(batch)
        assert len(batch) == len(set(batch))
        assert all(sequence.is_running for sequence in batch)
        assert sum(one.num_scheduled + one.num_draft for one in batch) <= self.scheduler.max_batched_tokens
        for sequence in batch:
            self.compute(sequence)
        self.scheduler.commit(batch)
        for sequence in batch:
            if not sequence.num_pending:
                self.postprocess(sequence, token, ends)

    def compute(self, sequence):
        """Write the scheduled tokens into the cache, and assert that no shared block is overwritten."""
        new = (
            sequence.token_ids[sequence.num_computed :][: sequence.num_scheduled] + sequence.draft[: sequence.num_draft]
        )
        if sequence.score_from is not None:
            first_row = max(sequence.num_computed, sequence.score_from)
            assert sequence.num_computed + sequence.num_scheduled - first_row <= sequence.task.max_score_rows
        blocks = sequence.block_table.blocks
        assert list(sequence.block_table.array) == blocks
        self.check_content(sequence)
        for position, token_id in enumerate(new, sequence.num_computed):
            block = blocks[position // BLOCK_SIZE]
            assert self.blocks._references[block] == 1, "a block is written by its only holder"
            assert block not in self.blocks._cached
            regime = self.regimes(max(sequence.rope_length, position + 1))
            self.cache.write(block, position % BLOCK_SIZE, (token_id, regime))
        keys = self.cache.read(blocks, sequence.num_computed + len(new))
        assert self.border is None or len({regime for _, regime in keys}) == 1, (
            "no key has the factors of the other side"
        )

    def postprocess(self, sequence, token, ends):
        """Append a token and the accepted draft tokens; finish at the counts in `ends`."""
        sequence.score_from = None
        sequence.token_ids.append(token)
        while sequence.num_accepted < sequence.num_draft and sequence.draft[sequence.num_accepted] == token:
            sequence.num_accepted += 1
            sequence.token_ids.append(token)
        count = self.generated[sequence.order] = self.generated.get(sequence.order, 0) + 1
        if len(sequence.token_ids) > self.scheduler.max_tokens or count > 20 or count in ends:
            self.scheduler.finish(sequence, forget=count % 2 == 0)
        elif sequence.num_draft:
            self.scheduler.accept_drafts(sequence)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def abort(self, data):
        """Abort all sequences of a task, including those that have not started."""
        task = data.draw(st.sampled_from(self.tasks))
        self.tasks.remove(task)
        self.scheduler.remove(task)
        assert task not in self.scheduler.held
        assert not any(one.task is task for one in (*self.scheduler.running, *self.scheduler.waiting))

    def check_content(self, sequence):
        """Assert that a sequence's cache has its own tokens, with keys rotated as in plain decoding."""
        keys = self.cache.read(sequence.block_table.blocks, sequence.num_computed)
        assert [token_id for token_id, _ in keys] == sequence.token_ids[: sequence.num_computed]
        lengths = (max(sequence.rope_length, position + 1) for position in range(sequence.num_computed))
        assert [regime for _, regime in keys] == [self.regimes(length) for length in lengths]

    @invariant()
    def bounds_are_kept(self):
        """Assert the bounds on blocks and running sequences, the reference counts, and the order by age."""
        if not hasattr(self, "blocks"):
            return
        scheduler, blocks = self.scheduler, self.blocks
        assert 0 <= blocks.num_live <= blocks.num_used <= blocks.num_blocks
        assert len(scheduler.running) <= scheduler.max_num_seqs
        seats = Counter(sequence.task.share for sequence in scheduler.running)
        shares = {task.share for task in self.tasks}
        assert {share: share.num_running for share in shares} == {share: seats[share] for share in shares}
        assert max(seats.values(), default=0) <= scheduler.max_per_request
        tables = [sequence.block_table for sequence in scheduler.running]
        tables += [held.block_table for held in scheduler.held.values()]
        references = [0] * blocks.num_blocks
        for table in tables:
            assert len(set(table.blocks)) == len(table)
            for block in table.blocks:
                references[block] += 1
        assert references == blocks._references
        free = [*blocks._unused, *blocks._cached]
        assert sorted(free) == [block for block, count in enumerate(references) if count == 0]
        assert {blocks._digests[block] for block in blocks._unused} <= {None}
        for sequence in scheduler.running:
            self.check_content(sequence)
            assert sequence.rope_length >= len(sequence.task.prompt)
        for queue in (scheduler.running, scheduler.waiting):
            assert queue == sorted(queue, key=lambda sequence: sequence.order)
        assert not any(sequence.block_table.blocks for sequence in scheduler.waiting)

    def teardown(self):
        """Assert that all sequences finish in a bounded number of steps and free all blocks."""
        if not hasattr(self, "blocks"):
            return
        oldest, patience = None, 0
        while self.scheduler.has_work:
            everything = (*self.scheduler.running, *self.scheduler.waiting)
            first = min(sequence.order for sequence in everything)
            patience = 0 if first != oldest else patience + 1
            oldest = first
            assert patience < 400, "the oldest sequence starves"
            self.step(token=3, ends=set(), num_draft=0, right=False)
        assert not self.scheduler.held
        assert self.blocks.num_live == 0
        assert all(not task.num_unstarted for task in self.tasks)
        assert set(self.blocks._block_of.values()) == set(self.blocks._cached)


EngineMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestEngine = EngineMachine.TestCase
TestEngine.__doc__ = "No leak, no double free, no starvation, and every sequence finds its own tokens in the cache."
