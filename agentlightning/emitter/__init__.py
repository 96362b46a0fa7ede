"""What an agent says about itself: rewards, exceptions, annotations, messages, objects; and how to read them back."""

from .annotation import emit_annotation
from .exception import emit_exception, exception_attributes
from .message import emit_message, get_message_value
from .object import emit_object, get_object_value
from .operation import OperationContext, operation
from .reward import (
    emit_reward,
    find_final_reward,
    find_reward_spans,
    get_reward_labels,
    get_reward_value,
    get_rewards_from_span,
    is_reward_span,
    reward,
    reward_attributes,
    reward_number,
)

__all__ = [
    "OperationContext",
    "emit_annotation",
    "emit_exception",
    "emit_message",
    "emit_object",
    "emit_reward",
    "exception_attributes",
    "find_final_reward",
    "find_reward_spans",
    "get_message_value",
    "get_object_value",
    "get_reward_labels",
    "get_reward_value",
    "get_rewards_from_span",
    "is_reward_span",
    "operation",
    "reward",
    "reward_attributes",
    "reward_number",
]
