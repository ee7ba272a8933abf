"""`@qbawa.step`: functions, coroutines, generators and methods whose executions are recorded."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, TypeVar, overload

from qbawa.record import api, threads
from qbawa.record.context import Step, current, implicit_request
from qbawa.record.snapshot import MAX_CHARS, MAX_NODES, Snapshot, described

F = TypeVar("F", bound=Callable[..., Any])


@overload
def step(function: F, /) -> F: ...
@overload
def step(name: str, /) -> Callable[[F], F]: ...
@overload
def step(*, name: str | None = None) -> Callable[[F], F]: ...
def step(function: Any = None, /, *, name: str | None = None) -> Any:
    """Record every execution of a function: inputs by parameter name, output, error, times, and what it is nested in.

    For functions, coroutine functions, generators and async generators (recorded when exhausted or closed), and
    methods (without `self`). `name` defaults to the function's own. What the function returns or raises is untouched.
    """
    if function is None or isinstance(function, str):
        return functools.partial(_decorate, name=name or function)
    return _decorate(function, name=name)


def _decorate(function: Any, name: str | None) -> Any:
    if isinstance(function, (classmethod, staticmethod)):
        return type(function)(_decorate(function.__func__, name))
    if isinstance(function, type) or not callable(function):
        raise TypeError(
            f"@qbawa.step records functions and methods, not {function!r}. Put it on the method that works."
        )
    label = str(name or getattr(function, "__name__", None) or type(function).__name__)[:256]
    begin = functools.partial(_begin, label, _Parameters(function))
    if inspect.isasyncgenfunction(function):
        return _async_generator(function, begin)
    if inspect.iscoroutinefunction(function):
        return _coroutine(function, begin)
    if inspect.isgeneratorfunction(function):
        return _generator(function, begin)
    return _plain(function, begin)


Begin = Callable[[Any, Any, Any], Step | None]


def _begin(name: str, parameters: _Parameters, recorder: Any, args: Any, kwargs: Any) -> Step | None:
    """The step that begins here, made current; None where it is not recorded. Never raises."""
    try:
        here = threads.here()
        if isinstance(here, Step):
            request, parent_id = here.request, here.recording_id
        else:
            request, parent_id = here or implicit_request(recorder), None
        if not request.sampled:
            if here is None:
                current.set(request)  # what is nested here is not recorded either
            return None
        step = Step(recorder, request, parent_id, name, parameters.named(args, kwargs))
        current.set(step)
        return step
    except Exception as problem:
        recorder.counts.add("internal_error", f"step {name!r} was not recorded: {described(problem)}")
        return None


def _plain(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    @functools.wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        recorder = api.recorder
        if recorder is None:
            return function(*args, **kwargs)
        with _Execution(begin, recorder, args, kwargs) as execution:
            execution.output = output = function(*args, **kwargs)
            return output

    return recorded


def _coroutine(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    @functools.wraps(function)
    async def recorded(*args: Any, **kwargs: Any) -> Any:
        recorder = api.recorder
        if recorder is None:
            return await function(*args, **kwargs)
        with _Execution(begin, recorder, args, kwargs) as execution:
            execution.output = output = await function(*args, **kwargs)
            return output

    return recorded


def _generator(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    @functools.wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        recorder = api.recorder
        if recorder is None:
            return (yield from function(*args, **kwargs))
        stream = _Stream(begin, recorder, args, kwargs)
        source = function(*args, **kwargs)
        resume, argument = source.send, None
        while True:
            try:
                with stream:
                    chunk = resume(argument)
            except StopIteration as stop:
                return stop.value
            stream.add(chunk)
            try:
                resume, argument = source.send, (yield chunk)
            except GeneratorExit:
                try:
                    source.close()
                finally:
                    stream.end()
                raise
            except BaseException as error:
                resume, argument = source.throw, error

    return recorded


def _async_generator(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    @functools.wraps(function)
    async def recorded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        source = function(*args, **kwargs)
        stream = _Stream(begin, api.recorder, args, kwargs)
        resume, argument = source.asend, None
        while True:
            try:
                with stream:
                    chunk = await resume(argument)
            except StopAsyncIteration:
                return
            stream.add(chunk)
            try:
                resume, argument = source.asend, (yield chunk)
            except GeneratorExit:
                try:
                    await source.aclose()
                finally:
                    stream.end()
                raise
            except BaseException as error:
                resume, argument = source.athrow, error

    return recorded


class _Execution:
    """One call of a function, as a block: its step is current inside and ends with `output` or with the error."""

    __slots__ = ("_before", "_step", "output")

    def __init__(self, begin: Begin, recorder: Any, args: Any, kwargs: Any) -> None:
        self._before = current.get()
        self._step = begin(recorder, args, kwargs)
        self.output: Any = None

    def __enter__(self) -> _Execution:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        current.set(self._before)
        if self._step is not None:
            self._step.end(self.output, error)


class _Stream:
    """One run of a generator, a block each time it is resumed.

    The step is current only while the generator's own code runs, not while its consumer's does.
    """

    __slots__ = ("_before", "_chunks", "_inside", "_step")

    def __init__(self, begin: Begin, recorder: Any, args: Any, kwargs: Any) -> None:
        self._before = current.get()
        self._step = begin(recorder, args, kwargs) if recorder is not None else None
        self._inside = current.get()
        current.set(self._before)
        self._chunks = _Chunks()

    def __enter__(self) -> None:
        self._before = current.get()
        current.set(self._inside)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        current.set(self._before)
        if isinstance(error, StopIteration | StopAsyncIteration):
            self.end()
        elif error is not None and self._step is not None:
            self._step.end(error=error)

    def add(self, chunk: Any) -> None:
        if self._step is not None:
            self._chunks.add(chunk)

    def end(self) -> None:
        """The generator is exhausted or was closed: what it yielded is its output."""
        if self._step is not None:
            self._step.end(self._chunks.joined(), cut=self._chunks.cut)


class _Parameters:
    """Names for the arguments of one function, worked out once."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._positional: list[str] = []
        self._defaults: dict[str, Any] = {}
        self._rest: str | None = "args"
        self._keywords: str | None = None
        self._skip = 0
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # some callables written in C have no signature
            return
        self._rest = None
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                self._positional.append(parameter.name)
            elif parameter.kind is parameter.VAR_POSITIONAL:
                self._rest = parameter.name
            elif parameter.kind is parameter.VAR_KEYWORD:
                self._keywords = parameter.name
            if parameter.default is not parameter.empty:
                self._defaults[parameter.name] = parameter.default
        self._known = {parameter.name for parameter in parameters}
        owner = getattr(function, "__qualname__", "").split(".")[:-1]
        if owner and owner[-1] != "<locals>" and self._positional[:1] in (["self"], ["cls"]):
            self._skip = 1

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments by parameter name; `*args` as a list and `**kwargs` as a dict under their own names."""
        skip = self._skip
        inputs = dict(zip(self._positional[skip:], args[skip:] if skip else args, strict=False))
        if kwargs:
            if self._keywords is None:
                inputs.update(kwargs)
            else:
                inputs.update((key, value) for key, value in kwargs.items() if key in self._known)
                inputs[self._keywords] = {key: value for key, value in kwargs.items() if key not in self._known}
        if self._rest is not None:
            inputs[self._rest] = args[len(self._positional) :]
        for name, value in self._defaults.items():
            if name not in inputs:
                inputs[name] = value
        return inputs


class _Chunks:
    """What a stream yielded, within the bounds of one value. `cut` where something did not fit."""

    def __init__(self) -> None:
        self._chunks: list[Any] = []
        self._chars, self._text, self.cut = MAX_CHARS, True, False

    def add(self, chunk: Any) -> None:
        self._text = self._text and type(chunk) is str
        if self._chars <= 0 or len(self._chunks) >= MAX_NODES:
            self.cut = True
            return
        snapshot = Snapshot(chunk, self._chars)
        self._chunks.append(snapshot.value)
        self._chars -= snapshot.size
        self.cut = self.cut or snapshot.cut

    def joined(self) -> Any:
        """One text where every chunk was text, else the list of chunks."""
        return "".join(self._chunks) if self._text else self._chunks
