"""A parameter as data: a row of the table in decoding.params.

The table is the body of SamplingParams, one `parameter(...)` per field. It is the only place where a parameter's
default, domain, stage, help text, API range and source are written. The following are derived from it:

* the checks of SamplingParams, and its documentation;
* the flags of the command line (decoding.cli.flags);
* the fields, the JSON Schema and the page /docs of the HTTP API (decoding.completions_api.fields);
* the parameters of each stage (decoding.sampling.stages), and how the kernel gets them (decoding.sampling.kernel.row);
* the strategies and the invalid values for tests (decoding.testing.strategies);
* the table in docs/semantics.md (tests/tools/docs_tables.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import Field, dataclass, field, replace
from typing import Any, TypeVar

from decoding.domains import Domain, Integer, Number, OrNone, required

T = TypeVar("T")

_KEY = "decoding.parameter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a request.

    name: also the name of the flag, of the API's field, and of the field of `decoding_row` if the kernel reads it.
    default: the value of a parameter that is not given.
    domain: the values that it takes.
    stage: the stage of the pipeline that reads it, "" if none does.
    group: the title of the parameters that it is shown with.
    help: one sentence, without a capital at its start and a full stop at its end.
    none: what None means, in words; "" if None is not in the domain.
    source: where the method was published, or which program has it.
    standard: True if it is in the reference of the Completions API; otherwise it is an extension.
    api: the domain of the API's field; the parameter's own without None, unless the API's reference has a narrower one.
    c_none: the number that stands for None in `decoding_row`.
    usual: an interval from which values for tests are drawn, in addition to a bounded domain.
    corners: values that tests try first.
    """

    name: str = ""
    default: Any
    domain: Domain
    stage: str
    group: str = ""
    help: str
    none: str
    source: str
    standard: bool
    api: Domain
    c_none: float
    usual: tuple[float, float] | None
    corners: tuple[Any, ...]

    @property
    def flag(self) -> str:
        """The flag of the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def sentence(self) -> str:
        """The help text as a sentence."""
        return f"{self.help[0].upper()}{self.help[1:]}."

    @property
    def is_number(self) -> bool:
        """Return True if the value is an integer or a real number (or None)."""
        return isinstance(required(self.domain), Integer | Number)

    @property
    def default_text(self) -> str:
        """The default in words; "" if it is an empty list or needs no mention."""
        if self.default is None:
            return self.none
        return "" if self.default == () else str(self.default)


def parameter(
    default: T,
    domain: Domain,
    help: str,
    *,
    stage: str = "",
    group: str = "",
    none: str = "off",
    source: str = "",
    standard: bool = False,
    api: Domain | None = None,
    c_none: float = 0,
    usual: tuple[float, float] | None = None,
    corners: tuple[Any, ...] = (),
) -> T:
    """Return a dataclass field that is a row of the table; see Parameter. Its declared type is the default's.

    group: the title of a group that begins with this row; "" continues the group of the row before.
    """
    row = Parameter(
        default=default,
        domain=domain,
        stage=stage,
        group=group,
        help=help,
        none=none if domain_has_none(domain) else "",
        source=source,
        standard=standard,
        api=required(domain) if api is None else api,
        c_none=c_none,
        usual=usual,
        corners=corners,
    )
    return field(default=default, metadata={_KEY: row})


def domain_has_none(domain: Domain) -> bool:
    """Return True if None is a value of its own in the domain, not another way to write an empty list."""
    return isinstance(domain, OrNone) or getattr(domain, "required", False)


def table_of(fields: Iterable[Field[Any]]) -> dict[str, Parameter]:
    """Return the rows of the table by name, in the order of the dataclass fields."""
    rows: dict[str, Parameter] = {}
    group = ""
    for one in fields:
        row: Parameter = one.metadata[_KEY]
        group = row.group or group
        rows[one.name] = replace(row, name=one.name, group=group)
    return rows


def described(parameters: Iterable[Parameter]) -> str:
    """Return the table as text for a docstring, a paragraph per parameter."""
    return "\n".join(f"    {row.name}: {_description(row)}" for row in parameters)


def _description(row: Parameter) -> str:
    source = f" Source: {row.source}." if row.source else ""
    default = f" Default: {row.default_text}." if row.default_text else ""
    return f"{row.domain.rule.removeprefix('must be ')}. {row.sentence}{default}{source}"
