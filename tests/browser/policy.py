"""A strict content security policy: nothing inline, nothing from elsewhere."""

from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " + (
    "connect-src 'self'; form-action 'self'; base-uri 'none'"
)


def strict(
    get_response: Callable[[HttpRequest], Awaitable[HttpResponse]],
) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
    """Add the policy to every answer."""

    async def answer(request: HttpRequest) -> HttpResponse:
        response = await get_response(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    assert iscoroutinefunction(get_response)
    return markcoroutinefunction(answer)


strict.async_capable = True  # type: ignore[attr-defined]
strict.sync_capable = False  # type: ignore[attr-defined]
