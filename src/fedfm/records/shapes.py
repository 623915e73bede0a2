"""What the files of a run's folder must hold. Further keys are allowed.

The folder may come from another version of fedfm, from another person or from a damaged disk. Its files are checked
once, when they are read; the code that uses them needs no further checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, Literal, NotRequired, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

T = TypeVar("T")

_OPEN = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

Count = Annotated[int, Field(ge=0, le=10**18)]
"""A larger number fits on no disk, and a float does not hold it exactly."""

Figure = float | None
"""A measured number; null where it was not finite."""

EXPECTED = {
    "dict_type": "an object with keys",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "string_type": "text",
}
"""pydantic's types of error → what was expected."""

Name = Annotated[str, Field(max_length=10_000)]


def _figures(but: frozenset[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A check that every key but these holds a number or null."""

    def check(record: dict[str, Any]) -> dict[str, Any]:
        for key, value in record.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if key not in but and value is not None and not number:
                raise ValueError(f"`{key}` must be a number")
        return record

    return check


@with_config(_OPEN)
class _Metrics(TypedDict):
    round: Count
    split: Name
    client: NotRequired[Name | None]
    seconds: NotRequired[float]
    examples: NotRequired[Count]
    predictions: NotRequired[Count]
    stage: NotRequired[Name]
    layers: NotRequired[dict[str, dict[str, Figure]]]
    task: NotRequired[Name]
    tasks: NotRequired[dict[str, Figure]]


@with_config(_OPEN)
class _Event(TypedDict):
    round: NotRequired[Count | None]
    kind: Name
    client: NotRequired[Name | None]
    reason: str


@with_config(_OPEN)
class _Tensor(TypedDict):
    name: Name
    dtype: Name
    shape: list[Count]
    bytes: Count


@with_config(_OPEN)
class _Message(TypedDict):
    round: Count
    kind: NotRequired[Name]
    direction: Literal["down", "up", "peer"]
    clients: list[Name]
    bytes: Count
    work: NotRequired[Name]
    names: NotRequired[list[Name]]
    tensors: list[_Tensor]


def _with_receivers(message: dict[str, Any]) -> dict[str, Any]:
    """Checks that a message between clients names its sender and at least one receiver."""
    if message["direction"] == "peer" and len(message["clients"]) < 2:
        raise ValueError("`clients` of direction `peer` must be the sender and at least one receiver")
    return message


@with_config(_OPEN)
class _Costs(TypedDict):
    round: Count
    client: Name
    down: Count
    up: Count
    download: NotRequired[Count]
    steps: Count
    samples: Count
    flops: Figure
    memory_bytes: Count | None
    link_seconds: Figure
    cpu_seconds: Figure
    seconds: Figure
    peak_bytes: Count | None


@with_config(_OPEN)
class _Client(TypedDict):
    id: Name
    examples: Count
    labels: NotRequired[dict[str, Count] | None]
    label_epsilon: NotRequired[float]
    holdout: NotRequired[Count | None]


@with_config(_OPEN)
class _Best(TypedDict):
    round: Count
    split: Name
    metrics: dict[str, Figure]


@with_config(_OPEN)
class _Parameters(TypedDict):
    backbone: Count
    trainable: Count


@with_config(_OPEN)
class _ProxyParameters(TypedDict):
    blocks: Count
    backbone_blocks: Count
    total: Count


@with_config(_OPEN)
class _Proxy(TypedDict, total=False):
    kind: Name
    title: Name
    parameters: _ProxyParameters
    disclosed: float
    disclosed_blocks: dict[str, float]
    initial: dict[str, Figure]
    final: dict[str, Figure] | None
    plugged: dict[str, Figure]
    distilled: dict[str, Figure] | None
    plug_in_gap: Figure
    first_download: Count
    seconds: float


@with_config(_OPEN)
class _Traffic(TypedDict, total=False):
    down: Count
    up: Count
    first_download: Count


@with_config(_OPEN)
class _CostsSummary(TypedDict, total=False):
    flops: Figure
    cpu_seconds: Figure
    link_seconds: Figure
    round_seconds: dict[str, Figure]
    memory_bytes: Count | None
    peak_bytes: Count | None
    energy_joules: Figure
    watts: float


@with_config(_OPEN)
class _Clients(TypedDict, total=False):
    total: Count | None
    failed: Count
    refused: Count


@with_config(_OPEN)
class _ClientScore(TypedDict):
    score: Figure
    rounds: Count


@with_config(_OPEN)
class _Scores(TypedDict):
    kind: Name
    evaluations: Count
    change: Figure
    by_client: dict[str, _ClientScore]


@with_config(_OPEN)
class _ProtocolFields(TypedDict):
    kind: Name


_Protocol = Annotated[_ProtocolFields, AfterValidator(_figures(frozenset({"kind"})))]


@with_config(_OPEN)
class _Privacy(TypedDict):
    epsilon: float
    delta: float
    unit: Name
    noise_multiplier: NotRequired[float | None]
    rate: NotRequired[float | None]
    releases: NotRequired[Count]
    rounds: NotRequired[Count]
    steps: NotRequired[Count]
    accountant: NotRequired[Name]


@with_config(_OPEN)
class _TaskStream(TypedDict):
    metric: Name
    tasks: list[Name]
    rounds: Count
    seen: Count
    matrix: list[list[Figure]]


@with_config(_OPEN)
class _OwnModels(TypedDict):
    model: Name
    clients: Count
    measured: Count
    final: dict[str, Figure] | None
    alone: dict[str, Figure] | None


@with_config(_OPEN)
class _Compared(TypedDict):
    metric: Name
    by_client: dict[str, dict[str, Figure]]
    spread: dict[str, dict[str, Figure]]
    worse_than: dict[str, list[Name]]


@with_config(_OPEN)
class _WeightedFigures(TypedDict):
    clients: Count
    examples: Count
    predictions: Count
    by_predictions: dict[str, Figure]
    by_clients: dict[str, Figure]


@with_config(_OPEN)
class _Summary(TypedDict):
    status: Name
    rounds: Count
    metric: Name
    final: dict[str, Figure]
    initial: dict[str, Figure]
    labels: NotRequired[list[str] | None]
    best: NotRequired[_Best | None]
    baselines: NotRequired[dict[str, Figure | dict[str, Figure]]]
    clients_spread: NotRequired[dict[str, Any] | None]
    stream: NotRequired[_TaskStream | None]
    models: NotRequired[list[_OwnModels]]
    clients_compared: NotRequired[_Compared | None]
    proxy: NotRequired[_Proxy | None]
    parameters: NotRequired[_Parameters]
    bytes: NotRequired[_Traffic]
    costs: NotRequired[_CostsSummary]
    seconds: NotRequired[dict[str, float]]
    clients: NotRequired[_Clients]
    privacy: NotRequired[_Privacy | None]
    client_groups: NotRequired[dict[str, _WeightedFigures] | None]
    final_by: NotRequired[Literal["server", "clients"]]
    evaluate_at: NotRequired[Literal["server", "clients", "both"]]
    mean_of_clients: NotRequired[bool]
    mean_of_experts: NotRequired[bool]
    personal: NotRequired[list[Name]]
    needs_model: NotRequired[bool]
    personal_values: NotRequired[Literal["mean", "initial"]]
    protocol: NotRequired[_Protocol | None]
    contribution: NotRequired[_Scores | None]
    versions: NotRequired[dict[str, str]]


@with_config(_OPEN)
class _Class(TypedDict):
    label: Name
    examples: Count
    precision: Figure
    recall: Figure
    f1: Figure


@with_config(_OPEN)
class _Evaluation(TypedDict):
    examples: Count
    metrics: dict[str, Figure]
    classes: list[_Class] | None
    confusion: list[list[Count]] | None


@with_config(_OPEN)
class _Sample(TypedDict):
    row: Count
    prompt: str
    answer: str | None
    before: str
    after: str


@with_config(_OPEN)
class _Samples(TypedDict):
    initial: dict[str, Figure]
    final: dict[str, Figure]
    rows: list[_Sample]


@with_config(_OPEN)
class _JudgeFigures(TypedDict):
    against: str
    pairs: Count
    failed: Count
    identical: Count
    wins: Count
    ties: Count
    losses: Count
    win_rate: Figure
    standard_error: Figure
    agreement: Figure
    prefers_first: Figure
    prefers_longer: Figure
    verdicts: list[dict[str, Any]]


@with_config(_OPEN)
class _Synthetic(TypedDict):
    metric: Name
    texts: Count
    sets: dict[Name, dict[str, Figure]]


def _square(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Checks that the confusion matrix, if there is one, has a row and a column for each class."""
    classes, confusion = len(evaluation["classes"] or ()), evaluation["confusion"] or []
    if confusion and (len(confusion) != classes or any(len(row) != classes for row in confusion)):
        raise ValueError(f"`confusion` must be a table of {classes} × {classes} counts")
    return evaluation


@with_config(_OPEN)
class _Matrix(TypedDict):
    metric: Name
    clients: list[Name]
    values: list[list[Figure]]


def _complete(matrix: dict[str, Any]) -> dict[str, Any]:
    """Checks that a matrix of clients has a row and a column for each client."""
    count, values = len(matrix["clients"]), matrix["values"]
    if len(values) != count or any(len(row) != count for row in values):
        raise ValueError(f"`values` must be a table of {count} × {count} figures")
    return matrix


@with_config(_OPEN)
class _Processor(TypedDict, total=False):
    model: str | None
    count: Count | None


@with_config(_OPEN)
class _Environment(TypedDict):
    versions: dict[str, str]
    platform: NotRequired[str]
    cpu: NotRequired[_Processor | None]
    memory_bytes: NotRequired[Count | None]
    gpus: NotRequired[list[str]]
    threads: NotRequired[Count]


@with_config(_OPEN)
class _Profile(TypedDict):
    seconds: dict[str, float]
    training: dict[str, float]
    processes: Count
    threads: Count
    tokens: float
    share: Figure
    operations_a_second: Figure
    gemm_peak: Figure


@with_config(_OPEN)
class _Area(TypedDict):
    auc: float
    interval: Annotated[list[float], Field(min_length=2, max_length=2)]


@with_config(_OPEN)
class _TruePositives(TypedDict):
    rate: float
    interval: Annotated[list[float], Field(min_length=2, max_length=2)]


@with_config(_OPEN)
class _MembershipAttack(_Area):
    true_positives: dict[str, _TruePositives | None]


@with_config(_OPEN)
class _WorstClient(_Area):
    client: Name
    members: Count


@with_config(_OPEN)
class _ClientAreas(TypedDict):
    measured: Count
    mean_auc: float
    worst: _WorstClient


@with_config(_OPEN)
class _MembershipFigures(TypedDict):
    members: Count
    others: Count
    loss: _MembershipAttack
    reference: _MembershipAttack
    clients: _ClientAreas | None


@with_config(_OPEN)
class _ExposureFigures(TypedDict):
    planted: Count
    others: Count
    mean: float
    median: float
    highest: float
    by_chance: float
    most: float
    p_value: float


@with_config(_OPEN)
class _OneRunFigures(TypedDict):
    canaries: Count
    planted: Count
    guesses: Count
    right: Count
    epsilon_lower: float
    delta: float
    confidence: float
    promised: NotRequired[float]
    unit: NotRequired[Name]
    changes: NotRequired[Count]
    p_value: NotRequired[float]
    refuted: NotRequired[bool]


@with_config(_OPEN)
class _Recovered(TypedDict):
    labels: float | None
    cosine: float | None
    tokens: float | None


@with_config(_OPEN)
class _InversionFigures(TypedDict):
    examples: Count
    tokens: Count
    sent: _Recovered
    released: _Recovered | None


@with_config(_OPEN)
class _DisclosureFigures(TypedDict):
    disclosed: float


@with_config(_OPEN)
class _Measured(TypedDict, total=False):
    membership: _MembershipFigures
    exposure: _ExposureFigures
    one_run: _OneRunFigures
    inversion: _InversionFigures
    disclosure: _DisclosureFigures


@with_config(_OPEN)
class _Audit(TypedDict):
    measured: _Measured
    not_measured: dict[str, str]


@with_config(_OPEN)
class _Recipe(TypedDict):
    name: Name
    output: NotRequired[str]
    run_dir: NotRequired[str | None]
    model: NotRequired[dict[str, Any]]
    task: NotRequired[dict[str, Any]]
    data: NotRequired[dict[str, Any]]
    federation: NotRequired[dict[str, Any]]
    tune: NotRequired[dict[str, Any]]
    algorithm: NotRequired[dict[str, Any]]
    proxy: NotRequired[dict[str, Any]]
    runtime: NotRequired[dict[str, Any]]
    evaluate: NotRequired[dict[str, Any]]


class Shape(Generic[T]):
    """What a value read from JSON or YAML must look like."""

    def __init__(self, form: Any) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(form)

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, in words; None for a sound value."""
        try:
            self._adapter.validate_python(value)
        except ValidationError as error:
            return _in_words(error)
        return None


def _in_words(error: ValidationError) -> str:
    """The first fault: its place in the value, and what is wrong."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if not str(part).endswith("]"))
    if first["type"] == "missing":
        return f"`{where}` is missing"
    kind = EXPECTED.get(first["type"])
    message = first["msg"].removeprefix("Value error, ")
    if kind:
        message = f"must be {kind}, not {type(first['input']).__name__}"
    return f"`{where}`: {message}" if where else message


METRICS = Shape[Mapping[str, Any]](
    Annotated[_Metrics, AfterValidator(_figures(frozenset({"split", "client", "stage", "layers", "task", "tasks"})))]
)
EVENT = Shape[Mapping[str, Any]](_Event)
MESSAGE = Shape[Mapping[str, Any]](Annotated[_Message, AfterValidator(_with_receivers)])
COSTS = Shape[Mapping[str, Any]](_Costs)
CLIENTS = Shape[list[Any]](list[_Client])
SUMMARY = Shape[Mapping[str, Any]](_Summary)
EVALUATION = Shape[Mapping[str, Any]](Annotated[_Evaluation, AfterValidator(_square)])
MATRIX = Shape[Mapping[str, Any]](Annotated[_Matrix, AfterValidator(_complete)])
SAMPLES = Shape[Mapping[str, Any]](_Samples)
JUDGE = Shape[Mapping[str, Any]](_JudgeFigures)
SYNTHETIC = Shape[Mapping[str, Any]](_Synthetic)
ENVIRONMENT = Shape[Mapping[str, Any]](_Environment)
AUDIT = Shape[Mapping[str, Any]](_Audit)
PROFILE = Shape[Mapping[str, Any]](_Profile)
RECIPE = Shape[Mapping[str, Any]](_Recipe)
