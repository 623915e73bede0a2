"""The keys of a recipe. Its groups are the settings of the rooms that use them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedfm.aggregation import Aggregation
from fedfm.aggregation.mean import Mean
from fedfm.algorithms import AnyAlgorithm, FedAvg
from fedfm.audit.settings import AuditSettings
from fedfm.clients.retrieval.settings import AskSettings
from fedfm.clients.settings import LocalSettings
from fedfm.clients.work import EVALUATE, RETRIEVE
from fedfm.contributions import AnyValuation, NoValuation
from fedfm.data.partitions import Column, Iid, Partition
from fedfm.data.settings import DataSettings, PublicSettings
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import Lora, Tune
from fedfm.privacy import AnyPrivacy, NoPrivacy
from fedfm.protocols import AnyProtocol, Star
from fedfm.proxies import AnyProxy, NoProxy
from fedfm.recipe.evaluation import CheckpointSettings, EvaluateSettings
from fedfm.recipe.federation import FederationSettings
from fedfm.records.disk import normal
from fedfm.runtimes.settings import Local, Runtime
from fedfm.secure import NoSecure, Secure
from fedfm.settings import Settings
from fedfm.tasks import AnyTask
from fedfm.updates.stages import AnyStage
from fedfm.views.selection import AnySelection, NoSelection


class RecipeKeys(Settings):
    """All keys of a recipe, each valid by itself; `fedfm.Recipe` adds what holds between them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Names the run's folder: letters, digits, `.`, `_` and `-`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Every random choice derives from it."""
    output: str = "runs"
    """Folder of runs; this run's is OUTPUT/NAME."""
    run_dir: str | None = None
    """The run's folder, in place of OUTPUT/NAME."""
    model: ModelSettings
    """The backbone."""
    task: AnyTask
    """What the model is to learn."""
    data: DataSettings
    """Where examples come from; relative paths start where the command is given."""
    public: PublicSettings | None = None
    """Unlabelled public data at the server, for distilling and aligning a proxy."""
    federation: FederationSettings = FederationSettings()
    """Clients, and how data is split among them."""
    local: LocalSettings = LocalSettings()
    """Training at a client, within a round."""
    tune: Tune = Lora()
    """What is trained and travels."""
    select: AnySelection = NoSelection()
    """Which part of the tunable each client trains in a round."""
    algorithm: AnyAlgorithm = FedAvg()
    """How the federation learns."""
    proxy: AnyProxy = NoProxy()
    """What clients hold in place of the backbone."""
    protocol: AnyProtocol = Star()
    """Who asks whom for what in a round."""
    updates: list[AnyStage] = []
    """Stages that an update passes on its way to the server, in order."""
    aggregate: Aggregation = Mean()
    """How a round's updates become one."""
    contribution: AnyValuation = NoValuation()
    """What each client of a round contributed, scored from the round's updates."""
    secure: Secure = NoSecure()
    """What the server sees of the clients' updates."""
    privacy: AnyPrivacy = NoPrivacy()
    """What is promised about the clients' data."""
    audit: AuditSettings = AuditSettings()
    """What is planted in the clients' data, so that `fedfm audit` can measure what the model remembers."""
    runtime: Runtime = Local()
    """Where clients execute."""
    evaluate: EvaluateSettings = EvaluateSettings()
    """How the server's model is measured."""
    ask: AskSettings = AskSettings()
    """Questions to the clients, once the run is over."""
    checkpoint: CheckpointSettings = CheckpointSettings()
    """How often a run is saved."""
    report_to: list[Literal["tensorboard"]] = []
    """Trackers that follow the run beside its own records."""
    allow_network: bool = False
    """Whether models and data may be downloaded."""

    @property
    def partition(self) -> Partition:
        """How examples are split: as the recipe says, else by `data.client`, else alike."""
        return self.federation.partition or (Column() if self.data.client else Iid())

    @property
    def public_length(self) -> int:
        """Tokens of a public example."""
        return (self.public.max_length if self.public else None) or self.data.max_length

    @property
    def works(self) -> tuple[str, ...]:
        """Kinds of work that clients are asked for."""
        if self.ask.questions is not None:
            return (RETRIEVE,)
        asked = (*self.protocol.works, *self.secure.works)
        if self.algorithm.task_work is not None:
            asked = (*asked, self.algorithm.task_work)
        return (*asked, *self.select.works, *(() if self.evaluate.at == "server" else (EVALUATE,)))

    @property
    def judges(self) -> bool:
        """Whether the server evaluates models of a round on `data.validation`."""
        return self.protocol.judges or self.contribution.judges

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return normal(self.run_dir or Path(self.output) / self.name)
