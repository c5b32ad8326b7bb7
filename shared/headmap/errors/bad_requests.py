"""What is wrong with the request itself: 400, 408, 413, 422 and 431."""

from __future__ import annotations

from headmap.errors.base import HeadmapError


class BadRequest(HeadmapError):
    code, status, title = "invalid_request", 422, "Invalid request"


class InvalidParameter(BadRequest):
    code, title = "invalid_parameter", "Invalid parameter"


class InvalidImage(BadRequest):
    code, title = "invalid_image", "Invalid image"


class EmptyPrompt(BadRequest):
    code, title = "empty_prompt", "Empty prompt"


class PromptTooLong(BadRequest):
    code, title = "prompt_too_long", "Prompt too long"


class BudgetTooSmall(BadRequest):
    code, title = "budget_too_small", "Budget too small"


class UnknownMethod(BadRequest):
    code, title = "unknown_method", "Unknown method"


class InvalidScores(BadRequest):
    code, title = "invalid_scores", "Invalid head scores"


class InvalidDataset(BadRequest):
    code, title = "invalid_dataset", "Invalid dataset"


class UnsupportedModel(BadRequest):
    code, title = "unsupported_model", "Unsupported model"


class ModelNotUsable(UnsupportedModel):
    """This host cannot run the model: files or packages are missing or broken, or the device is too small."""

    code, title, not_here = "model_not_usable", "Model not usable on this host", True


class RequestTooLarge(BadRequest):
    """The request's KV cache can never fit into the server's KV memory."""

    code, title = "request_too_large", "Request too large"


class PayloadTooLarge(HeadmapError):
    code, status, title = "payload_too_large", 413, "Payload too large"


class ImageTooLarge(PayloadTooLarge):
    code, title = "image_too_large", "Image too large"


class DatasetTooLarge(PayloadTooLarge):
    code, title = "dataset_too_large", "Dataset too large"


class MalformedRequest(HeadmapError):
    """What arrived is not HTTP."""

    code, status, title = "malformed_request", 400, "Malformed request"


class HeadTooLarge(MalformedRequest):
    code, status, title = "head_too_large", 431, "Request head too large"


class RequestTimeout(HeadmapError):
    """The request arrives too slowly."""

    code, status, title = "request_timeout", 408, "Request timeout"
