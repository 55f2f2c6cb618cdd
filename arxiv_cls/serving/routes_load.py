"""`POST /load`: switches the model, for who has the token."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arxiv_cls.errors import UserError
from arxiv_cls.serving.http_errors import Refused, documented, explain
from arxiv_cls.serving.model_names import allowed_model

logger = logging.getLogger(__name__)


class LoadRequest(BaseModel):
    """Which model shall answer from now on."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(
        min_length=1, max_length=256, description="a name in the models directory, or an allowed Hub id"
    )


class LoadReply(BaseModel):
    """What answers now."""

    model: str
    model_version: str
    engine: str
    seconds: float = Field(description="that loading took")
    previous: str | None = Field(description="name of the model before")


bearer = HTTPBearer(auto_error=False, description="the value of ARXIV_CLS_TOKEN")


def load_router() -> APIRouter:
    """The route."""
    router = APIRouter(tags=["operate"])
    schema = LoadRequest.model_json_schema()

    @router.post(
        "/load",
        summary="Switch the model",
        response_model=LoadReply,
        responses=documented(401, 403, 404, 408, 409, 413, 422, 424),
        # The body is read by hand, so that who has no token learns nothing from how it is judged.
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        },
    )
    async def load(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> dict[str, Any]:
        """Requests that came before are answered by the old model, later ones by the new; none is dropped."""
        endpoint = request.app.state.endpoint
        _check_token(credentials, endpoint.settings.token)
        try:
            wanted = LoadRequest.model_validate_json(await request.body())
        except ValidationError as error:
            raise Refused(422, explain(error.errors())) from None
        settings = endpoint.settings
        # In a thread: it reads the head of every file of the model.
        model = await asyncio.to_thread(
            allowed_model, wanted.model, settings.models_directory, settings.allow_hub
        )
        previous = endpoint.slot.current
        try:
            loaded = await endpoint.switch(model)
        except UserError as error:
            # Where the models lie on this machine is nobody's business, not even that of who has the token.
            told = error.message.replace(f"{settings.models_directory}/", "").replace(model, wanted.model)
            raise Refused(424, f"not loaded, the old model stays: {told}") from None
        except Exception as error:
            logger.exception("a model could not be loaded")
            told = f"not loaded, the old model stays: {type(error).__name__} while reading its files"
            raise Refused(424, told) from None
        if loaded is None:
            raise Refused(409, "another model is being loaded")
        return {
            "model": loaded.name,
            "model_version": loaded.version,
            "engine": loaded.predictor.engine,
            "seconds": round(loaded.loaded_in, 3),
            "previous": previous.name if previous else None,
        }

    return router


def _check_token(credentials: HTTPAuthorizationCredentials | None, token: str | None) -> None:
    if not token:
        raise Refused(403, "switching is off: the server was started without ARXIV_CLS_TOKEN")
    given = credentials.credentials if credentials else ""
    # compare_digest takes the same time wherever the first difference is.
    if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode("utf-8", "replace")):
        raise Refused(401, "send the header Authorization: Bearer <token>", {"WWW-Authenticate": "Bearer"})
