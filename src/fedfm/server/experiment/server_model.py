"""A further model at the server, which predicts on public texts and is never trained: the teacher of distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedfm.clients import Evaluator
from fedfm.clients.distilling import Learner, learner_of
from fedfm.errors import Problem, RecipeError
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.tunable import Tunable
from fedfm.server.experiment.federated_data import FederatedData

WHERE = "protocol.teacher"


@dataclass(frozen=True)
class LoadedServerModel:
    """The model, ready to predict.

    Attributes:
        learner: reads texts and predicts.
        identity: digests that identify it, by name; those of a resumed run must be equal.
    """

    learner: Learner
    identity: Mapping[str, str]


def load_server_model(data: FederatedData, evaluator: Evaluator) -> LoadedServerModel | None:
    """The further model that the recipe's protocol uses; None where it uses none.

    Args:
        data: with the recipe and the classes.
        evaluator: of the server's own model.

    Raises:
        RecipeError: at ``protocol.teacher``: it does not exist, or has no trained head for the classes of the data, in
            their order.
    """
    recipe, labels = data.recipe, () if data.labels is None else data.labels.names
    settings = recipe.protocol.server_model
    if settings is None:
        return None
    model = recipe.model.model_copy(update={"path": settings.path, "revision": settings.revision})
    try:
        backbone = load_backbone(
            model,
            data.task.auto_class,
            seed=recipe.seed,
            labels=labels,
            problem_type=data.task.problem_type,
            allow_network=recipe.allow_network,
        )
    except RecipeError as error:
        raise RecipeError([_here(problem) for problem in error.problems], source=error.source) from error
    _refuse_untrained(backbone, labels)
    tunable = Tunable.of_model(backbone.model, [])
    tunable.to(evaluator.device)
    own = replace(evaluator, tunable=tunable, family=backbone.family, processor=backbone.processor)
    learner = learner_of(own, text_length=recipe.public_length, threads=recipe.runtime.resolved_threads)
    named = {f"{WHERE}.{part}": digest for part, digest in backbone.identity.named.items()}
    return LoadedServerModel(learner, named)


def _refuse_untrained(backbone: Backbone, labels: tuple[str, ...]) -> None:
    """Refuses a model whose predictions are random, or of other classes."""
    advice = "name a model of this task, such as model/ of a finished run (`fedfm export --merge`)"
    if backbone.new_head:
        raise RecipeError(
            f"{backbone.name} has no trained head for the {len(labels)} classes of data.label, so that its predictions "
            f"are random; {advice}",
            where=f"{WHERE}.path",
        )
    if backbone.other_labels:
        raise RecipeError(
            f"{backbone.name} predicts the classes {', '.join(backbone.other_labels)}, but those of data.label are "
            f"{', '.join(labels)}, in this order; {advice}",
            where=f"{WHERE}.path",
        )


def _here(problem: Problem) -> Problem:
    """A problem of `model`, at the key of this model."""
    return Problem(problem.where.replace("model.", f"{WHERE}.", 1), problem.message, problem.got)
