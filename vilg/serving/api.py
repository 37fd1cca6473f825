"""The JSON API: POST /v1/images and /v1/captions, described in /openapi.json and /docs."""

import asyncio
import base64
import binascii
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from vilg.errors import UserError
from vilg.generation.metadata import describe, encode_image, of_image
from vilg.generation.pipeline import Pipeline
from vilg.generation.sampling import Sampler
from vilg.serving import validation
from vilg.serving.batching import Batcher, BusyError, ProgressEvent, Task
from vilg.serving.limits import Limits
from vilg.serving.tasks import CaptionTask, ImageTask

_POLL = 0.5  # seconds after which it is checked whether the client is still connected
_SEEDS = 2**53  # exact in JSON for every reader

_Finite = Field(allow_inf_nan=False)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ImagesRequest(_Strict):
    """Generate images for a text."""

    text: str = Field(examples=["红苹果"])
    n: int = Field(1, ge=1, description="number of images")
    seed: int | None = Field(None, ge=0, lt=_SEEDS, description="seed of the first image; null: random", examples=[7])
    temperature: Annotated[float, _Finite] = Field(1.0, gt=0)
    top_k: int = Field(0, ge=0, lt=2**31, description="only the k most likely tokens; 0: all")
    top_p: Annotated[float, _Finite] = Field(1.0, gt=0, le=1)
    guidance: Annotated[float, _Finite] = Field(1.0, ge=0, le=1e6, description="classifier-free guidance; 1: off")


class GeneratedImage(BaseModel):
    png: str = Field(description="a PNG file in base64, which contains the metadata, too")
    metadata: dict[str, Any] = Field(description="how the image was generated, as `vilg generate` writes it")


class ImagesResponse(BaseModel):
    images: list[GeneratedImage]
    warnings: list[str] = Field(description="for example parts of the text that the model does not know")


class CaptionsRequest(_Strict):
    """Caption an image."""

    image: str = Field(description="an image file in base64, or a data URL")
    n: int = Field(1, ge=1, description="number of captions; 1: greedy decoding, otherwise beam search")


class GeneratedCaption(BaseModel):
    text: str
    probability: float = Field(description="geometric mean of the probabilities of its tokens")


class CaptionsResponse(BaseModel):
    captions: list[GeneratedCaption] = Field(description="best first")


class Refusal(BaseModel):
    error: str = Field(description="one line")


_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "the request cannot be fulfilled"},
    401: {"model": Refusal, "description": "the token is missing or wrong"},
    413: {"model": Refusal, "description": "the body is too long"},
    422: {"model": Refusal, "description": "a field is missing, unknown, or of the wrong type"},
    503: {"model": Refusal, "description": "too many requests are waiting; try again after Retry-After seconds"},
}


def add_routes(app: FastAPI, pipeline: Pipeline, batcher: Batcher, limits: Limits) -> None:
    """Add the API to an application, and one form for all of its errors."""
    router = APIRouter(prefix="/v1", responses=_RESPONSES, tags=["model"])

    @router.post("/images")
    async def images(body: ImagesRequest, request: Request) -> ImagesResponse:
        text, warnings = validation.text(body.text, limits, pipeline)
        count = validation.integer("n", body.n, 1, limits.pictures)
        seed = secrets.randbelow(_SEEDS - count) if body.seed is None else body.seed
        sampler = Sampler(seed, body.temperature, body.top_k, top_p=body.top_p)
        event = await _run(batcher, ImageTask(text, count, sampler, body.guidance), request)
        return await asyncio.to_thread(_encode, pipeline, text, sampler, body.guidance, event.result.pixels, warnings)

    @router.post("/captions")
    async def captions(body: CaptionsRequest, request: Request) -> CaptionsResponse:
        count = validation.integer("n", body.n, 1, limits.beams)
        data = await asyncio.to_thread(_decode_base64, body.image)
        image = await asyncio.to_thread(validation.image, data, limits)
        event = await _run(batcher, CaptionTask(image, count), request)
        return CaptionsResponse(
            captions=[GeneratedCaption(text=text, probability=likely) for text, likely in event.result]
        )

    app.include_router(router)
    app.add_exception_handler(UserError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_fields)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(_DisconnectedError, _answer_nobody)


class _DisconnectedError(Exception):
    """The client has left."""


async def _run(batcher: Batcher, task: Task, request: Request) -> ProgressEvent:
    """The last event of a task. The task is cancelled if the client disconnects."""
    with batcher.submit(task) as handle:
        while (event := await handle.next_event(_POLL)) is None or not event.last:
            if await request.is_disconnected():
                raise _DisconnectedError
        return event


def _encode(pipeline: Pipeline, text: str, sampler: Sampler, guidance: float, pixels, warnings) -> ImagesResponse:
    metadata = describe(
        pipeline,
        text,
        [sampler.seed + number for number in range(len(pixels))],
        sampler,
        guidance,
        candidates=len(pixels),
    )
    images = []
    for number, image in enumerate(pixels):
        own = of_image(metadata, number)
        data = encode_image(Image.fromarray(image), "PNG", own)
        images.append(GeneratedImage(png=base64.b64encode(data).decode(), metadata=own))
    return ImagesResponse(images=images, warnings=warnings)


def _decode_base64(text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("image: not base64") from None


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    message = {"error": str(error).removeprefix("--")}
    if isinstance(error, BusyError):
        return JSONResponse(message, 503, {"Retry-After": "2"})
    return JSONResponse(message, 400)


async def _refuse_fields(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return JSONResponse({"error": "the body is not JSON"}, 422)
    field = ".".join(str(part) for part in first["loc"][1:]) or "body"
    return JSONResponse({"error": f"{field}: {first['msg'][:1].lower()}{first['msg'][1:]}"}, 422)


async def _refuse_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail).lower()}, error.status_code, error.headers)


async def _answer_nobody(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "the client has disconnected"}, 499)
