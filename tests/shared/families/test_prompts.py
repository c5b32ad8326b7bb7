"""Prompts and pictures' tensors are those of the model's own processor, to the token and the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import ProcessorMixin
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.smolvlm import processing_smolvlm

from headmap.families.loading import LoadedModel
from tests.shared.families.seeing import ask, noise

TEXTS = ("What is it?", "\n\nTwo lines:\nthe first, the second.\n")

PROCESSORS: dict[str, tuple[type[ProcessorMixin], dict[str, Any]]] = {
    "qwen2_vl": (Qwen2VLProcessor, {}),
    "qwen2_5_vl": (Qwen2_5_VLProcessor, {}),
    "qwen3_vl": (Qwen3VLProcessor, {}),
    "llava_next": (
        LlavaNextProcessor,
        {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llava_onevision": (
        LlavaOnevisionProcessor,
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_2"},
    ),
    "internvl": (InternVLProcessor, {"image_seq_length": 16}),
    "gemma3": (Gemma3Processor, {"image_seq_length": 16}),
    "idefics3": (Idefics3Processor, {"image_seq_len": 16}),
    "smolvlm": (processing_smolvlm.SmolVLMProcessor, {"image_seq_len": 16, "video_processor": None}),
}


@pytest.fixture
def processor(family_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> ProcessorMixin:
    """The family's own processor, without the video part, which needs packages that we do without."""

    def init(self: ProcessorMixin, image_processor: Any, tokenizer: Any, *_: Any, **__: Any) -> None:
        self.image_processor, self.tokenizer, self.video_processor = image_processor, tokenizer, None
        self.feature_extractor, self.chat_template = None, None

    monkeypatch.setattr(ProcessorMixin, "__init__", init)
    monkeypatch.setattr(processing_smolvlm, "num2words", str)
    if family_model.family.name not in PROCESSORS:
        pytest.skip("its processor is not to be had without torchvision; see below")
    cls, shape = PROCESSORS[family_model.family.name]
    tokenizer = family_model.tokenizer
    if family_model.family.name.startswith("qwen"):
        tokenizer.image_token = "<image>"
    return cls(image_processor=family_model.image_processor, tokenizer=tokenizer, **shape)


@pytest.mark.parametrize("count", [1, 2])
def test_a_prompt_is_the_processors_own(family_model: LoadedModel, processor: ProcessorMixin, count: int) -> None:
    pictures = [Image.fromarray(noise(*size)) for size in ((90, 56), (24, 24))][:count]
    for text in TEXTS:
        content = [{"type": "image"}] * count + [{"type": "text", "text": text}]
        rendered = family_model.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        expected = processor(images=[pictures], text=[rendered], return_tensors="pt", add_special_tokens=False)
        ours = ask(family_model, pictures, text).inputs
        assert ours["input_ids"].tolist() == expected["input_ids"].tolist()
        for name, tensor in ours.items():
            assert torch.equal(torch.as_tensor(expected[name]), tensor), name


@pytest.mark.parametrize(("name", "rows", "cols"), [("pixtral", 2, 3), ("mistral3", 2, 3)])
def test_pixtral_writes_a_break_after_each_row_and_an_end_after_the_last(
    small_model: Callable[[str], LoadedModel], name: str, rows: int, cols: int
) -> None:
    """A token of either model shows 8 x 8 px; pictures are resized up to whole tokens."""
    model = small_model(name)
    ids = ask(model, [Image.new("RGB", (8 * cols - 3, 8 * rows - 5))], "Q").inputs["input_ids"][0].tolist()
    line = "<image>" * cols
    assert model.tokenizer.decode(ids) == f"USER: {line}[IMG_BREAK]{line}[IMG_END]\nQ ASSISTANT:"
