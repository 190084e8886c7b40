"""The networks: name -> how it is made, and the inputs that it is called with, those in most use first."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn


class Made(NamedTuple):
    """A network and its inputs."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = {}  # noqa: RUF012


VOCABULARY, TOKENS = 100, 12


def image(size: int, channels: int = 3) -> torch.Tensor:
    """Return an image (1, channels, size, size)."""
    return torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))


def words(length: int = TOKENS) -> torch.Tensor:
    """Return tokens (1, length)."""
    return torch.randint(3, VOCABULARY - 1, (1, length), generator=torch.Generator().manual_seed(0))


def of_torchvision(name: str, size: int = 224, **settings: Any) -> Made:
    """Make a network of torchvision."""
    models = importlib.import_module("torchvision").models
    if "deeplab" in name or "fcn" in name or "lraspp" in name or "rcnn" in name or "ssd" in name:
        settings |= {"weights_backbone": None}
    x = [image(size)[0]] if "rcnn" in name or "ssd" in name else image(size)
    if name == "raft_small":
        return Made(models.get_model(name), (image(128), image(128)))
    if name == "r3d_18":
        x = torch.randn(1, 3, 4, 64, 64)
    return Made(models.get_model(name, weights=None, **settings), (x,))


def of_timm(name: str, size: int = 224, **settings: Any) -> Made:
    """Make a network of timm."""
    return Made(importlib.import_module("timm").create_model(name, pretrained=False, **settings), (image(size),))


def of_transformers(model: str, config: str, inputs: dict[str, Any], **settings: Any) -> Made:
    """Make a network of transformers, from a small configuration."""
    library = importlib.import_module("transformers")
    made = getattr(library, config)(**settings)
    return Made(getattr(library, model)(made), (), {**inputs})


def of_yolo(file: str) -> Made:
    """Make the network of a YOLO, from the file that describes it."""
    return Made(importlib.import_module("ultralytics").YOLO(f"{file}.yaml").model, (image(128),))


def of_segmentation(kind: str, encoder: str) -> Made:
    """Make a network of segmentation_models_pytorch."""
    library = importlib.import_module("segmentation_models_pytorch")
    return Made(getattr(library, kind)(encoder, encoder_weights=None, classes=4), (image(64),))


def of_diffusers(kind: str, inputs: tuple[Any, ...], **settings: Any) -> Made:
    """Make a network of diffusers, from a small configuration."""
    return Made(getattr(importlib.import_module("diffusers"), kind)(**settings), inputs, {"return_dict": False})


def transformer_encoder() -> Made:
    """Make a classifier of sequences with the encoder of `torch.nn`."""
    nn = torch.nn
    layers = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2, enable_nested_tensor=False
    )
    return Made(nn.Sequential(nn.Linear(12, 32), layers, nn.Linear(32, 5)), (torch.randn(1, 9, 12),))


class Recurrent(torch.nn.Module):
    """A recurrent layer and a classifier."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.cell: Any = kind(12, 32, num_layers=2, batch_first=True)
        self.classify = torch.nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> Any:
        """Map (batch, steps, 12) to (batch, 5)."""
        return self.classify(self.cell(x)[0][:, -1])


def recurrent(kind: str) -> Made:
    """Make a network with a recurrent layer."""
    return Made(Recurrent(getattr(torch.nn, kind)), (torch.randn(1, 10, 12),))


# Small configurations of transformers.
TEXT = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = {**TEXT, "intermediate_size": 128, "max_position_embeddings": 64}
LLAMA = {**BERT, "num_key_value_heads": 2}
VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SPEECH = {"vocab_size": VOCABULARY, "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4}
WHISPER = {
    **SPEECH,
    "num_mel_bins": 16,
    "encoder_ffn_dim": 128,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 128,
    "max_source_positions": 20,
    "max_target_positions": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
T5 = {"vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
WAV2VEC2 = {
    "vocab_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (32, 32),
    "conv_stride": (4, 4),
    "conv_kernel": (8, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
YOLOS = {**VISION, "image_size": [32, 32], "intermediate_size": 128, "num_detection_tokens": 5}
UNET = {"sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}


def _transformers() -> Iterator[tuple[str, Callable[[], Made]]]:
    one = functools.partial(functools.partial, of_transformers)
    text, pixels = {"input_ids": words()}, {"pixel_values": image(32)}
    lm = {**text, "use_cache": False}
    both = {**text, "decoder_input_ids": words(7), "use_cache": False}
    gpt2 = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    mamba = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
    mixtral = {**LLAMA, "num_local_experts": 4}
    yield "bert_cls", one("BertForSequenceClassification", "BertConfig", text, **BERT)
    yield "gpt2_lm", one("GPT2LMHeadModel", "GPT2Config", lm, **gpt2)
    yield "llama_gqa_lm", one("LlamaForCausalLM", "LlamaConfig", lm, **LLAMA)
    yield "vit_cls", one("ViTForImageClassification", "ViTConfig", pixels, **VISION, intermediate_size=128)
    yield "t5_full", one("T5ForConditionalGeneration", "T5Config", both, **T5)
    yield "qwen2_lm", one("Qwen2ForCausalLM", "Qwen2Config", lm, **LLAMA)
    yield "qwen3_lm", one("Qwen3ForCausalLM", "Qwen3Config", lm, **LLAMA, head_dim=16)
    yield "clip_vision", one("CLIPVisionModel", "CLIPVisionConfig", pixels, **VISION, intermediate_size=128)
    yield (
        "whisper_full",
        one(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            {"input_features": torch.randn(1, 16, 40), "decoder_input_ids": words(7), "use_cache": False},
            **WHISPER,
        ),
    )
    yield "wav2vec2_ctc", one("Wav2Vec2ForCTC", "Wav2Vec2Config", {"input_values": torch.randn(1, 800)}, **WAV2VEC2)
    yield "mixtral_moe_lm", one("MixtralForCausalLM", "MixtralConfig", lm, **mixtral)
    yield "mamba_lm", one("MambaForCausalLM", "MambaConfig", lm, **mamba)
    yield (
        "bert_cls_eager",
        one("BertForSequenceClassification", "BertConfig", text, **BERT, attn_implementation="eager"),
    )
    yield "bert_mlm", one("BertForMaskedLM", "BertConfig", text, **BERT)
    yield (
        "distilbert_cls",
        one(
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            text,
            vocab_size=VOCABULARY,
            dim=64,
            n_layers=2,
            n_heads=4,
            hidden_dim=128,
        ),
    )
    yield "t5_encoder", one("T5EncoderModel", "T5Config", text, **T5)
    yield "whisper_encoder", lambda: _whisper_encoder()
    yield "dinov2_cls", one("Dinov2ForImageClassification", "Dinov2Config", pixels, **VISION)
    yield (
        "swin_cls",
        one(
            "SwinForImageClassification",
            "SwinConfig",
            pixels,
            image_size=32,
            patch_size=2,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
        ),
    )
    yield (
        "convnext_cls",
        one(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            pixels,
            hidden_sizes=[16, 32, 48, 64],
            depths=[1, 1, 2, 1],
        ),
    )
    yield (
        "segformer_seg",
        one(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            {"pixel_values": image(64)},
            hidden_sizes=[16, 32, 40, 64],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 2, 5, 8],
            decoder_hidden_size=32,
        ),
    )
    yield "yolos", one("YolosForObjectDetection", "YolosConfig", pixels, **YOLOS)
    yield "gpt2_lm, with cache", one("GPT2LMHeadModel", "GPT2Config", text, **gpt2)
    yield "llama_gqa_lm, with cache", one("LlamaForCausalLM", "LlamaConfig", text, **LLAMA)


def _whisper_encoder() -> Made:
    library = importlib.import_module("transformers")
    encoder = library.WhisperModel(library.WhisperConfig(**WHISPER)).encoder
    return Made(encoder, (), {"input_features": torch.randn(1, 16, 40)})


FIRST = {
    "torchvision": "resnet18 resnet50 mobilenet_v2 vit_b_16 efficientnet_b0 convnext_tiny swin_t mobilenet_v3_small",
    "timm": "vit_tiny_patch16_224 beit_base_patch16_224 levit_128s pvt_v2_b0 nfnet_l0 xcit_nano_12_p16_224",
}
REST = {
    "torchvision": """densenet121 regnet_y_400mf vgg11_bn shufflenet_v2_x0_5 squeezenet1_0 alexnet mnasnet0_5
        inception_v3 fcn_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large raft_small r3d_18
        swin_v2_t maxvit_t ssdlite320_mobilenet_v3_large fasterrcnn_mobilenet_v3_large_320_fpn""",
    "timm": """deit_tiny_patch16_224 cait_xxs24_224 edgenext_xx_small res2net50_26w_4s twins_svt_small
        convnextv2_atto mobilevit_xxs mixer_s32_224 eva02_tiny_patch14_224 poolformer_s12 caformer_s18
        crossvit_tiny_240 volo_d1_224 nest_tiny davit_tiny nextvit_small efficientvit_m0 coatnet_nano_rw_224
        gmlp_s16_224 efficientformer_l1 repvgg_a0 resnest14d hrnet_w18_small ghostnet_100 dla34 fastvit_t8
        mobilenetv4_conv_small tiny_vit_5m_224 resnext50_32x4d seresnet18 skresnet18 eca_resnet33ts resnetv2_50
        focalnet_tiny_srf inception_next_atto mambaout_femto cspresnet50 ese_vovnet19b_dw tf_efficientnetv2_b0
        mobileone_s0 repghostnet_050 starnet_s1 efficientvit_b0 dpn48b xception41 visformer_tiny resmlp_12_224
        convmixer_768_32 pit_ti_224 swiftformer_xs repvit_m0_9 lcnet_050 regnetz_005 hiera_tiny_224
        sequencer2d_s shvit_s1 deit3_small_patch16_224 fasternet_t0 haloregnetz_b lambda_resnet26t gcresnet33ts
        selecsls42 rdnet_tiny botnet26t_256 tresnet_m gernet_s vovnet39a cspdarknet53 inception_resnet_v2 vgg11""",
}
# Full ones are too big for a small machine: the same blocks, fewer of them.
SMALLER: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"embed_dim": 192, "depth": 3, "num_heads": 3},
    "inception_v3": {"size": 299, "aux_logits": False, "init_weights": False},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "fcn_resnet50": {"size": 64},
    "deeplabv3_mobilenet_v3_large": {"size": 64},
    "lraspp_mobilenet_v3_large": {"size": 64},
    "crossvit_tiny_240": {"size": 240},
    "botnet26t_256": {"size": 256},
}


def _images(names: dict[str, str]) -> dict[str, Callable[[], Made]]:
    makers = {"torchvision": of_torchvision, "timm": of_timm}
    return {
        f"{library}/{name}": functools.partial(makers[library], name, **SMALLER.get(name, {}))
        for library, listed in names.items()
        for name in listed.split()
    }


def _others() -> Iterator[tuple[str, Callable[[], Made]]]:
    for file in ("yolov8n", "yolo11n", "yolov8n-cls", "yolov8n-seg", "yolo12n"):
        yield f"ultralytics/{file}", functools.partial(of_yolo, file)
    segmentation = {"Unet": "resnet18", "FPN": "mobilenet_v2", "UnetPlusPlus": "resnet18"}
    for kind, encoder in segmentation.items():
        yield f"segmentation_models/{kind} {encoder}", functools.partial(of_segmentation, kind, encoder)
    noisy, step = torch.randn(1, 3, 16, 16), torch.tensor(7)
    yield (
        "diffusers/UNet2D",
        functools.partial(
            of_diffusers,
            "UNet2DModel",
            (noisy, step),
            **UNET,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ),
    )
    yield (
        "diffusers/UNet2DCondition",
        functools.partial(
            of_diffusers,
            "UNet2DConditionModel",
            (torch.randn(1, 4, 16, 16), step, torch.randn(1, 5, 24)),
            **UNET,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=24,
            attention_head_dim=4,
        ),
    )
    yield (
        "diffusers/AutoencoderKL",
        functools.partial(
            of_diffusers,
            "AutoencoderKL",
            (noisy,),
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=8,
        ),
    )
    yield "torch/TransformerEncoder", transformer_encoder
    yield "torch/LSTM", functools.partial(recurrent, "LSTM")
    yield "torch/GRU", functools.partial(recurrent, "GRU")


NETWORKS: dict[str, Callable[[], Made]] = {
    **_images(FIRST),
    **{f"transformers/{name}": make for name, make in _transformers()},
    **dict(_others()),
    **_images(REST),
    "torchvision/googlenet": functools.partial(of_torchvision, "googlenet", **SMALLER["googlenet"]),
}
QUICK = ("torchvision/squeezenet1_0", "torch/TransformerEncoder")
