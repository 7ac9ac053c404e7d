"""Results as typed records: what the commands write as JSON, and what report and command line read.

Files keep the keys that earlier versions gave them.
"""

from vectomy.core.results.comparison_json import (
    ComparedEdit,
    ComparisonResults,
    DifferingTensor,
    DifferingWriter,
    ReproducedValues,
)
from vectomy.core.results.evaluation_json import (
    ConditionNumbers,
    EvaluatedSet,
    EvaluatedSubject,
    EvaluationCompletion,
    EvaluationResults,
    PartNumbers,
    PromptType,
    SetNumbers,
    SubjectNumbers,
    TextPerplexity,
    ToolCallNumbers,
)
from vectomy.core.results.healing_json import (
    HealedNumbers,
    HealingCompletion,
    HealingOutcome,
    HealingReceipt,
    HealingResults,
    TrainingRecord,
)
from vectomy.core.results.json_record import JsonObject, JsonRecord
from vectomy.core.results.result_parts import GivenAnswer, JudgeRecord, LossRow, PairedTest, Rate, TaskScore
from vectomy.core.results.run_json import (
    FormMetrics,
    RateName,
    ReceiptRecord,
    RunCompletion,
    RunResults,
    RunTrait,
    StrengthRange,
)
from vectomy.core.results.search_json import (
    Candidate,
    DirectionPlace,
    LayerSeparation,
    PrincipalPlane,
    SearchResults,
    Separation,
)
from vectomy.core.results.trait_json import TraitForm, TraitResults

__all__ = [
    "Candidate",
    "ComparedEdit",
    "ComparisonResults",
    "ConditionNumbers",
    "DifferingTensor",
    "DifferingWriter",
    "DirectionPlace",
    "EvaluatedSet",
    "EvaluatedSubject",
    "EvaluationCompletion",
    "EvaluationResults",
    "FormMetrics",
    "GivenAnswer",
    "HealedNumbers",
    "HealingCompletion",
    "HealingOutcome",
    "HealingReceipt",
    "HealingResults",
    "JsonObject",
    "JsonRecord",
    "JudgeRecord",
    "LayerSeparation",
    "LossRow",
    "PairedTest",
    "PartNumbers",
    "PrincipalPlane",
    "PromptType",
    "Rate",
    "RateName",
    "ReceiptRecord",
    "ReproducedValues",
    "RunCompletion",
    "RunResults",
    "RunTrait",
    "SearchResults",
    "Separation",
    "SetNumbers",
    "StrengthRange",
    "SubjectNumbers",
    "TaskScore",
    "TextPerplexity",
    "ToolCallNumbers",
    "TrainingRecord",
    "TraitForm",
    "TraitResults",
]
