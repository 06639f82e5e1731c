"""Executing a plan (see `django_rb.cache.computing`) in a thread or on an event loop."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from inspect import isawaitable
from time import sleep
from typing import Any, TypeVar

from django.db import close_old_connections

from ..engine.forks import register_at_fork
from ..engine.wording import get_logger
from .computed import Computed
from .computing import Aside, Ask, Call, Pause, Plan, Step, Wait
from .terms import refuse_awaitable

T = TypeVar("T")

logger = get_logger("django_rb.cache")

MAX_THREADS = 4

_executor: ThreadPoolExecutor | None = None
_tasks: set[asyncio.Task[None]] = set()  # a loop keeps weak references only


def run(ops: Computed, plan: Plan[T]) -> T:
    """Execute a plan in the calling thread."""
    result, error = None, None
    try:
        while True:
            step = plan.send(result) if error is None else plan.throw(error)
            result, error = None, None
            try:
                result = _take_step(ops, step)
            except BaseException as raised:  # noqa: BLE001 (the plan's to handle)
                error = raised
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        error = None  # its traceback has this frame: a cycle


def _take_step(ops: Computed, step: Step) -> Any:
    match step:
        case Ask(batch):
            return ops.run(batch)
        case Call(function, args):
            value = function(*args)
            refuse_awaitable(value, function)
            return value
        case Pause(seconds):
            return sleep(seconds)
        case Wait(flight, seconds):
            return flight.wait(seconds)
        case Aside(plan):
            return _run_aside(ops, plan)


async def arun(ops: Computed, plan: Plan[T]) -> T:
    """Execute a plan on the running event loop."""
    result, error = None, None
    try:
        while True:
            step = plan.send(result) if error is None else plan.throw(error)
            result, error = None, None
            try:
                result = await _await_step(ops, step)
            except BaseException as raised:  # noqa: BLE001 (the plan's to handle)
                error = raised
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        error = None


async def _await_step(ops: Computed, step: Step) -> Any:
    match step:
        case Ask(batch):
            return await ops.arun(batch)
        case Call(function, args):
            value = function(*args)
            return await value if isawaitable(value) else value
        case Pause(seconds):
            return await asyncio.sleep(seconds)
        case Wait(flight, seconds):
            return await flight.await_end(seconds)
        case Aside(plan):
            task = asyncio.create_task(_arun_and_log(ops, plan))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)
            return None


async def _arun_and_log(ops: Computed, plan: Plan[None]) -> None:
    try:
        await arun(ops, plan)
    except Exception as error:  # noqa: BLE001 (there is no caller to raise it to)
        _log(error)


def _run_aside(ops: Computed, plan: Plan[None]) -> None:
    """Execute a plan in another thread; in this one while the interpreter shuts down."""
    global _executor  # noqa: PLW0603 (made when first needed, and anew after a fork)
    if _executor is None:
        _executor = ThreadPoolExecutor(MAX_THREADS, "django_rb.cache")
    context = contextvars.copy_context()
    try:
        _executor.submit(context.run, _run_and_log, ops, plan)
    except RuntimeError:
        run(ops, plan)


def _run_and_log(ops: Computed, plan: Plan[None]) -> None:
    close_old_connections()
    try:
        run(ops, plan)
    except Exception as error:  # noqa: BLE001 (there is no caller to raise it to)
        _log(error)
    finally:
        close_old_connections()


def _log(error: Exception) -> None:
    logger.warning("A value could not be computed or stored in the background.", exc_info=error)


def _start_over_after_fork() -> None:
    global _executor  # noqa: PLW0603
    _executor = None
    _tasks.clear()


register_at_fork(_start_over_after_fork)
