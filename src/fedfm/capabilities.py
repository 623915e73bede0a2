"""The words in which choices of a recipe say what they need from each other, give and take (`Settings.needs`, …).

A capability names what one choice relies on and another one decides, so that neither names the other. The recipe is
refused where a capability that one choice needs is absent (`fedfm.recipe.capabilities`).
"""

from __future__ import annotations

SGD = "sgd"
"""Local steps are w ← w − η·g: `local.optimizer: sgd` without `local.max_grad_norm`. SCAFFOLD and FedDyn need it."""
INDIVIDUAL_UPDATES = "individual updates"
"""The server sees each client's update; secure aggregation takes it. Robust rules need it."""
UPDATES_IN_CLEAR = "updates in the clear"
"""The server reads the values of each update, if only to clip it; secure aggregation takes it."""
INDIVIDUAL_FIGURES = "individual figures"
"""The server sees counts and metrics of each client; secure aggregation takes it."""
WEIGHTED_MEAN = "a weighted mean"
"""The rule is the clients' mean, weighted by what each knows of itself; mean, FFA-LoRA and RoLoRA give it."""
STATEFUL_CLIENTS = "stateful clients"
"""Clients keep tensors between rounds."""
LINEAR_STAGES = "linear stages"
"""The sum of encoded updates decodes to the sum of the updates; a stage that is not linear takes it."""
BACKBONE_WEIGHTS = "weights of the backbone"
"""Clients hold the weights of the backbone itself; proxies take it."""
LABELS = "labels"
"""Each training example has one label; tasks without labels take it."""
ONE_MODEL = "one model"
"""All clients share one tunable; personal parts, different backbones and gossip take it."""
SHARED_TUNABLE = "a tunable without personal parts"
"""No client keeps a part of the tunable for itself; personal parts and different backbones take it."""
SIMULATED_CLIENTS = "simulated clients"
"""The server reads the clients' data; `data.train: sites` takes it."""
ONE_BACKBONE = "one backbone"
"""All clients have the recipe's `model`, or its proxy; `federation.models` takes it."""
TUNABLE_UPDATES = "updates of the tunable"
"""Clients send what they changed of the tunable; a protocol in which they send something else takes it."""
TEXT_INPUTS = "text inputs"
"""The model reads text; tasks on images take it."""
WHOLE_VIEWS = "whole views"
"""Each client holds every coordinate of the tunable; ranks, personal parts and chosen layers take it."""
LASTING_COORDINATES = "lasting coordinates"
"""A coordinate of the tunable means the same in every round; a rule that chooses new factors takes it. What is kept
from round to round in these coordinates, such as a momentum, needs it."""
BARRIER = "barrier"
"""A round waits for its cohort; an asynchronous protocol takes it."""
SAME_ROUND = "clients in the same round"
"""All clients that train at a time are in the same round; an asynchronous protocol takes it."""
STEP_EACH_ROUND = "server step each round"
"""The server steps on the aggregate of every round; a protocol whose clients train on before that takes it."""
SERVER_STEP = "server step"
"""The server updates one set of parameters by the algorithm; gossip and distillation take it."""
UPDATE_PATH = "update path"
"""What clients send passes the stages; a protocol in which they send something else than updates takes it."""
SERVER_MESSAGES = "messages of a server"
"""A server sends clients the tunable; gossip takes it."""
FIXED_COHORT = "fixed cohort"
"""A round has a fixed number of different clients; Poisson and weighted sampling take it."""
PARTIAL_PARTICIPATION = "partial participation"
"""A round may have fewer clients than there are; gossip takes it."""
LOW_RANK_FACTORS = "low-rank factors"
"""The tunable is pairs of factors A and B; LoRA and DoRA give it."""
WEIGHT_MATRICES = "weight matrices of the model"
"""The tunable has the matrices of FFNs and attention themselves; full fine-tuning gives them."""
LOW_RANK_PRODUCT = "a low-rank product"
"""What the tunable adds to a matrix is a fixed multiple of B·A; LoRA gives it, DoRA divides by a norm."""
PLAIN_STEP = "plain server step"
"""The server adds the aggregate to the tunable as it is; server optimisers take it."""
MODEL_CHANGES = "changes of the frozen weights"
"""What a round adds to the weights that the clients hold reaches every client; a proxy and nodes take it."""
LINEAR_TUNABLE = "linear tunable"
"""What the tunable adds to the weights is linear in what is trained, so that the mean of the clients' values gives the
mean of their changes; FourierFT, SHiRA, IA3, BitFit and others give it."""
MASK_SCORES = "scores of a mask"
"""The tunable is scores of which each stands for the probability that a frozen weight is kept; `mask` gives them."""
SCORES_SENT = "scores in updates"
"""Clients send the scores of a mask themselves instead of their changes; FedPM gives that."""
SCORES_SENT_AS_MASKS = "masks in updates"
"""What arrives for scores are masks of zeros and ones; the stage `bernoulli` gives that."""
SEVERAL_TASKS = "several tasks"
"""Each example is of one of several tasks; the task `multi` gives them."""
TWO_TOWERS = "two towers"
"""The model has a tower for images and one for texts; tasks on pairs of both give it."""
VIRTUAL_TOKENS = "virtual tokens"
"""A trained token can precede the text; tasks on images, and tasks without a type in peft, take it."""
PEFT_PROMPTS = "prompts of peft"
"""peft can compute virtual tokens for the model, or put them into each block; a model of two towers takes it."""
BOTH_TOWERS_TUNED = "tuned parts in both towers"
"""Each tower of a model of images and texts has trained tensors; a tunable in one of them takes it."""
RECOMPUTATION = "recomputation"
"""Blocks can be computed again in the backward pass; a tunable in the cache of keys and values takes it."""
HEAD_ALONE = "the head alone"
"""Nothing but the task's head is tuned, so that its inputs stay what they are; `head` gives that."""
GRADIENTS = "gradients"
"""Clients train by gradients; a protocol in which they only compare losses takes it."""
CHOSEN_PARTS = "chosen parts"
"""The server says with each message which part of the tunable a client trains; a star gives it."""
SUBSETS = "subsets of a round's updates"
"""The server can fold any of a round's updates without the others; a star gives it."""
SHARED_CODE = "shared code"
"""Clients run in processes that know every class of this one; runtimes on nodes take it."""
ROUND_SUM = "a sum of each round's updates"
"""The server's only use of a round's updates is their combination in that round; a star gives it."""
EXAMPLE_COUNTS = "numbers of examples"
"""A client counts by the number of its examples; privacy of clients takes it."""
FREE_NORMS = "norms that nothing else bounds"
"""No other choice bounds the norms of updates; privacy that clips takes it."""
UPDATES_AS_SENT = "updates that count as they were sent"
"""The server adds what a client sent, unscaled; clipping and noise take it. Error feedback needs it."""
CLIENT_FIGURES = "figures of clients"
"""What clients count or measure decides what the server does; differential privacy takes it."""
SINGLE_EXAMPLES = "gradients of single examples"
"""What an example contributes to a local step depends on no other example of its client; contrastive losses, and logits
that are adjusted by a client's counts of classes, take it."""
STEADY_EXAMPLES = "the same examples in every round"
"""A client trains on the same examples in all its rounds; a stream of tasks takes it. Promises of privacy need it."""
STEADY_CLIENTS = "the same clients in every round"
"""The same clients can be drawn in all rounds; `federation.presence` takes it. Privacy of clients needs it."""
TASKS = "tasks that come one after the other"
"""Clients train on one task after the other; a stream gives it."""
TASK_ENDS = "questions after each task"
"""The server asks the clients of a round once more after the last round of a task; a star gives it."""

UNLESS_TAKEN = frozenset(
    {
        SGD,
        INDIVIDUAL_UPDATES,
        UPDATES_IN_CLEAR,
        INDIVIDUAL_FIGURES,
        STATEFUL_CLIENTS,
        LINEAR_STAGES,
        BACKBONE_WEIGHTS,
        LABELS,
        ONE_MODEL,
        SHARED_TUNABLE,
        ONE_BACKBONE,
        TUNABLE_UPDATES,
        TEXT_INPUTS,
        SIMULATED_CLIENTS,
        WHOLE_VIEWS,
        LASTING_COORDINATES,
        BARRIER,
        SAME_ROUND,
        STEP_EACH_ROUND,
        SERVER_STEP,
        UPDATE_PATH,
        SERVER_MESSAGES,
        FIXED_COHORT,
        PARTIAL_PARTICIPATION,
        VIRTUAL_TOKENS,
        PEFT_PROMPTS,
        BOTH_TOWERS_TUNED,
        RECOMPUTATION,
        GRADIENTS,
        SHARED_CODE,
        PLAIN_STEP,
        MODEL_CHANGES,
        EXAMPLE_COUNTS,
        FREE_NORMS,
        UPDATES_AS_SENT,
        CLIENT_FIGURES,
        SINGLE_EXAMPLES,
        STEADY_EXAMPLES,
        STEADY_CLIENTS,
    }
)
"""Capabilities that are there unless a choice takes them; any other must be given by a choice."""
