"""The WasmEdge engine.

Source of the call order and of every fact here: WasmEdge's C API 0.14, as measured (docs/architecture.md).
"""

from __future__ import annotations

import struct
from ctypes import c_void_p, string_at

from ...calls.call_list import FALSE, NONZERO, ZERO, At, Label, address
from ...start_request import REPORT, WASMEDGE
from ..engine import EXITED, REFUSED, TRAP_STATUS, TRAPPED, End, Engine, EngineMissing, Module
from . import altstack, capi, imports, llvm_standin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...calls.call_list import CallList, Data, Late, Step
    from ...start_request import StartRequest

VERSION = b"0.14."
_VALUE_BYTES = 32  # WasmEdge_Value
_FIRST_PREOPEN = 3
_FILES = 240  # that a template may have open
_TRAP_BYTES = 128  # of a trap's line
_TERMINATED = 1  # proc_exit was called
_FIRST_TRAP = 0x400  # of the codes that tell of running code (enum_errcode.h); those of linking are below

PARSE, VALIDATE, INSTANTIATE, NO_FUNCTION, PARAMETERS = range(101, 106)
"""Labels of the steps that can fail."""

_ABSOLUTE = b"_ZNSt10filesystem8absoluteERKNS_7__cxx114pathE"
_LEXICALLY_NORMAL = b"_ZNKSt10filesystem7__cxx114path16lexically_normalEv"

_WHAT = {PARSE: "not a WebAssembly module", VALIDATE: "not a valid module", INSTANTIATE: "cannot be instantiated"}


class WasmEdge(Engine):
    """WasmEdge, loaded once in the forkserver; each worker turns its own copy into one instance."""

    name = WASMEDGE
    stages = range(PARSE, PARAMETERS + 1)
    images = True
    bare = True

    def __init__(self) -> None:
        _load_llvm_standin()
        try:
            lib = capi.load()
        except (OSError, AttributeError) as error:
            raise EngineMissing(
                f"{capi.LIBRARY} does not load ({error}): run install-wasmedge.sh, as wasm-sandboxer doctor says"
            ) from None
        version: bytes = lib.WasmEdge_VersionGet()
        if not version.startswith(VERSION):
            raise EngineMissing(f"{capi.LIBRARY} is {version.decode()}, this needs {VERSION.decode()}x")
        self.version = version.decode()
        self._lib = lib
        self._calls = {name: address(getattr(lib, f"WasmEdge_{name}")) for name in capi.FUNCTIONS}
        self._wasi = 0

    def prime(self) -> None:
        """Do once, in the forkserver, what every instance needs and no guest can influence."""
        lib = self._lib
        lib.WasmEdge_LogOff()  # it would write to stdout, which is the guest's
        self._stack = altstack.FaultStack(lib)
        # WasmEdge makes a module's path absolute, from a directory that has no path. Made normal it stays relative;
        # both take a std::filesystem::path and return one.
        normal = imports.imported(lib, _LEXICALLY_NORMAL)
        self.proc = b"" if normal and imports.redirect(lib, _ABSOLUTE, normal) else b"/proc/"
        # Costly (about 0.5 MiB), and the same for all until ModuleInstanceInitWASI.
        self._wasi = lib.WasmEdge_ModuleInstanceCreateWASI(None, 0, None, 0, None, 0)

    def load(self, calls: CallList, module: Module, request: StartRequest, folders: list[int] | None) -> Guest:
        """Parse and validate the module, and set up its WASI instance."""
        guest = Guest(calls, bool(module.product))
        loader, validator = calls.slot(), calls.slot()
        self._call(calls, "ConfigureCreate", out=guest.conf)
        # Bytes of an image are only ever interpreted: native code in them would run as it comes.
        self._call(calls, "ConfigureSetForceInterpreter", At(guest.conf), int(not module.product))
        if request.max_pages:
            self._call(calls, "ConfigureSetMaxMemoryPage", At(guest.conf), request.max_pages)
        if folders is not None:
            self._init_wasi(calls, request, folders)
        self._call(calls, "LoaderCreate", At(guest.conf), out=loader)
        if module.product:
            name, source = "LoaderParseFromFile", (module.product,)
            self._call(calls, name, At(loader), guest.tree, *source, fails=NONZERO, stage=PARSE)
        elif module.begin is not None and module.length is not None:
            name, place = "LoaderParseFromBuffer", (At(module.begin), At(module.length))
            self._call(calls, name, At(loader), guest.tree, *place, fails=NONZERO, stage=PARSE)
        self._call(calls, "ValidatorCreate", At(guest.conf), out=validator)
        self._call(calls, "ValidatorValidate", At(validator), At(guest.tree), fails=NONZERO, stage=VALIDATE)
        return guest

    def restore(self, calls: CallList, values: list[int], request: StartRequest, folders: list[int]) -> Guest:
        """Set up the WASI instance, which is the zygote's and so at its place."""
        self._init_wasi(calls, request, folders)
        return self.restored(calls, values, request)

    def restored(self, calls: CallList, values: list[int], request: StartRequest) -> Guest:
        """Take the module as ``values`` name it."""
        guest = Guest(calls, compiled=True)
        guest.executor, guest.module, guest.function = (calls.table([value]) for value in values)
        guest.initialized = bool(request.initialize)
        return guest

    def values(self, guest: Guest) -> list[Data]:
        """Name the objects that running a function takes."""
        return [guest.executor, guest.module, guest.function]

    def instantiate(self, calls: CallList, guest: Guest, request: StartRequest) -> None:
        """Instantiate the module, which runs its start section, and find the function."""
        store, executor, tree = calls.slot(), At(guest.executor), At(guest.tree)
        self._call(calls, "ExecutorCreate", At(guest.conf), None, out=guest.executor)
        self._call(calls, "StoreCreate", out=store)
        self._call(calls, "ExecutorRegisterImport", executor, At(store), self._wasi, fails=NONZERO, stage=INSTANTIATE)
        arguments = (executor, guest.module, At(store), tree, At(guest.conf))  # the last is for ``explain`` alone
        self._call(calls, "ExecutorInstantiate", *arguments, fails=NONZERO, stage=INSTANTIATE)
        if not guest.compiled:  # the instance has copies of the functions: hand the originals back
            self._call(calls, "ASTModuleDelete", tree)
            calls.libc("malloc_trim", 0)
        self._find(calls, guest, request.function, guest.function)
        if request.initialize:
            guest.initializer = calls.slot()
            self._find(calls, guest, request.initialize, guest.initializer)

    def _find(self, calls: CallList, guest: Guest, name: bytes, function: Data) -> None:
        """Find an exported function that takes no parameters."""
        signature = calls.slot()
        string = (len(name), name)  # a WasmEdge_String, passed by value: both ABIs put it into two registers
        self._call(
            calls,
            "ModuleInstanceFindFunction",
            At(guest.module),
            *string,
            out=function,
            fails=ZERO,
            stage=NO_FUNCTION,
        )
        self._call(calls, "FunctionInstanceGetFunctionType", At(function), out=signature)
        self._call(calls, "FunctionTypeGetParametersLength", At(signature), fails=NONZERO, stage=PARAMETERS)

    def lend_context(self, calls: CallList, request: StartRequest, folders: list[int]) -> None:
        """Set up the WASI instance, with these folders alone."""
        self._init_wasi(calls, request, folders)

    def initialize(self, calls: CallList, guest: Guest, request: StartRequest) -> None:
        """Call the export, then close what the WASI instance has open, by its own function."""
        failed, done = Label(), Label()
        self._initialize(calls, guest, request.function == b"_start", failed, failed)
        close, name = calls.slot(), b"fd_close"
        value, result = calls.slot(), calls.slot()
        self._call(
            calls, "ModuleInstanceFindFunction", self._wasi, len(name), name, out=close, fails=ZERO, orelse=failed
        )
        calls.libc("malloc", 2 * _VALUE_BYTES, out=value)
        calls.libc("mempcpy", At(value), bytes(_VALUE_BYTES), _VALUE_BYTES, out=result)
        for fd in range(_FIRST_PREOPEN, _FIRST_PREOPEN + len(request.preopens)):
            calls.libc("memcpy", At(value), bytes(self._lib.WasmEdge_ValueGenI32(fd)), _VALUE_BYTES)
            self._call(calls, "ExecutorInvoke", At(guest.executor), At(close), At(value), 1, At(result), 1)
        first = request.descriptors.one(REPORT) + 1
        opened = calls.data(b"".join(struct.pack("<ihh", fd, 0, 0) for fd in range(first, first + _FILES)))
        count = calls.slot()
        calls.libc("poll", opened, _FILES, 0, out=count)  # counts those that are not open (POLLNVAL)
        calls.libc("memcmp", count, _FILES.to_bytes(4, "little"), 4, fails=NONZERO, orelse=failed)
        calls.go(done)
        calls.bind(failed)
        calls.libc("_exit", TRAP_STATUS)
        calls.bind(done)

    def run(self, calls: CallList, guest: Guest, command: bool) -> None:
        """Run the function and end the process."""
        status, trapped, ended = calls.slot(), Label(), Label()
        if not guest.initialized:
            self._initialize(calls, guest, command, trapped, ended)
        self._invoke(calls, guest, guest.function, trapped)
        calls.bind(ended)
        self._call(calls, "ModuleInstanceWASIGetExitCode", self._wasi, out=status)
        calls.libc("_exit", At(status))  # of which the lowest 8 bits count
        calls.bind(trapped)
        text, said, length = calls.slot(), calls.data(bytes(_TRAP_BYTES)), calls.slot()
        self._call(calls, "ResultGetMessage", At(guest.result), out=text)
        calls.libc("snprintf", said, _TRAP_BYTES, b"wasm trap: %s\n", At(text), out=length)
        calls.libc("write", 2, said, At(length))
        calls.libc("_exit", TRAP_STATUS)

    def _initialize(self, calls: CallList, guest: Guest, command: bool, trapped: Label, ended: Label) -> None:
        if not command:
            absent, initialize, name = Label(), calls.slot(), b"_initialize"
            module = At(guest.module)
            self._call(
                calls, "ModuleInstanceFindFunction", module, len(name), name, out=initialize, fails=ZERO, orelse=absent
            )
            self._invoke(calls, guest, initialize, trapped)
            calls.bind(absent)
        if guest.initializer is not None:
            self._invoke(calls, guest, guest.initializer, trapped)
            calls.libc("memcmp", guest.result, bytes(4), 4, fails=NONZERO, orelse=ended)  # it has called proc_exit

    def _invoke(self, calls: CallList, guest: Guest, function: Data, trapped: Label) -> None:
        result = guest.result
        self._call(calls, "ExecutorInvoke", At(guest.executor), At(function), None, 0, None, 0, out=result)
        self._call(calls, "ResultOK", At(result), fails=FALSE, orelse=trapped)

    def explain(self, step: Step, result: int) -> End:
        """Say how one of its steps ended the list."""
        if step.stage == NO_FUNCTION:
            return End(REFUSED, f"the module exports no function {_name(step)!r}")
        if step.stage == PARAMETERS:
            return End(REFUSED, "the function takes parameters, and there are none to give")
        code = result & 0xFFFFFFFF
        message: str = self._lib.WasmEdge_ResultGetMessage(capi.Result(code)).decode(errors="replace")
        if step.stage == INSTANTIATE and code & 0xFFFFFF == _TERMINATED:  # in the start section
            return End(EXITED, status=self._lib.WasmEdge_ModuleInstanceWASIGetExitCode(self._wasi) & 0xFF)
        wanted = ""
        if message == "unknown import":
            wanted = self._foreign_imports(step.arguments[3])
        elif step.stage == INSTANTIATE and len(step.arguments) > 4:
            wanted = self._memory_beyond(step.arguments[3], step.arguments[4])
        if step.stage == INSTANTIATE and code & 0xFFFFFF >= _FIRST_TRAP and not wanted:
            return End(TRAPPED, message)
        return End(REFUSED, f"{_WHAT[step.stage]}: {message}{wanted}")

    def _init_wasi(self, calls: CallList, request: StartRequest, folders: list[int]) -> None:
        # Without "/." WasmEdge does not get in: it opens with O_NOFOLLOW, and self/fd/N is a link.
        # Never ":readonly": the mount is, so that the guest hears EROFS from the kernel, and no lack of a WASI right.
        preopens = [
            b"%s:%sself/fd/%d/." % (preopen.path, self.proc, fd)
            for preopen, fd in zip(request.preopens, folders, strict=True)
        ]
        folders_given = calls.table(preopens), len(preopens)
        self._call(calls, "ModuleInstanceInitWASI", self._wasi, *calls.args, *calls.env, *folders_given)

    def _call(self, calls: CallList, name: str, *arguments: int | bytes | At | Data | Late | None, **more: Any) -> None:
        calls.call(self._calls[name], *arguments, **more)

    def _foreign_imports(self, tree: int) -> str:
        lib = self._lib
        count = min(lib.WasmEdge_ASTModuleListImportsLength(tree), 1024)
        imports = (c_void_p * count)()
        lib.WasmEdge_ASTModuleListImports(tree, imports, count)
        names = []
        for each in imports:
            module = capi.text(lib.WasmEdge_ImportTypeGetModuleName(each))
            name = capi.text(lib.WasmEdge_ImportTypeGetExternalName(each))
            if module != "wasi_snapshot_preview1":
                names.append(f"{module}.{name}")
        return f" (it wants {', '.join(names[:5])})" if names else ""

    def _memory_beyond(self, tree: int, conf: int) -> str:
        """Say how much memory a module wants from the start, where that is more than the container's limit."""
        lib = self._lib
        limit = lib.WasmEdge_ConfigureGetMaxMemoryPage(conf)
        count = min(lib.WasmEdge_ASTModuleListExportsLength(tree), 4096)
        exports = (c_void_p * count)()
        lib.WasmEdge_ASTModuleListExports(tree, exports, count)
        memories = filter(None, (lib.WasmEdge_ExportTypeGetMemoryType(tree, each) for each in exports))
        pages = max((lib.WasmEdge_MemoryTypeGetLimit(each).Min for each in memories), default=0)
        if pages <= limit:
            return ""
        return f" (it wants {pages * 64} KiB of memory from the start, and the memory limit allows {limit * 64} KiB)"


class Guest:
    """The places where a worker keeps its guest's objects."""

    __slots__ = ("compiled", "conf", "executor", "function", "initialized", "initializer", "module", "result", "tree")

    def __init__(self, calls: CallList, compiled: bool) -> None:
        self.compiled = compiled
        self.conf = calls.slot()
        self.tree = calls.slot()
        self.executor = calls.slot()
        self.module = calls.slot()
        self.function = calls.slot()
        self.result = calls.slot()
        self.initializer: Data | None = None
        """The request's own export, to be called before the function."""
        self.initialized = False
        """Whether that was done before the image was taken."""


def _load_llvm_standin() -> None:
    try:
        llvm_standin.load(capi.LIBRARY)
    except OSError:  # where the library itself cannot be loaded, ``capi.load`` says so
        pass


def _name(step: Step) -> str:
    return string_at(step.arguments[2], step.arguments[1]).decode(errors="replace")
