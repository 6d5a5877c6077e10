"""The WasmEdge engine behind three verbs: ``prime`` before the fork, ``load`` and ``run`` after it.

Source of the call order and of every fact here: WasmEdge's C API 0.14, as measured (docs/architecture.md).
"""

from __future__ import annotations

from ctypes import c_char_p, c_void_p

from . import _capi, altstack
from .protocol import NATIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import Preopen

VERSION = b"0.14."
MAX_PAGES = 65536  # of 64 KiB: 4 GiB, the most a 32-bit memory can have
TRAPPED = 134  # what WasmEdge's own program exits with after a trap


class EngineMissing(Exception):
    """libwasmedge cannot be used on this machine; the text says why and what to do."""


class ModuleRefused(Exception):
    """The module cannot be run: not WASM, invalid, an import nobody gives, no such function."""


class Arguments:
    """C arrays of one guest's arguments, made before the fork so that the worker allocates nothing for them."""

    __slots__ = ("args", "env", "max_pages")

    def __init__(self, args: list[bytes], env: list[bytes], max_pages: int) -> None:
        self.args = (c_char_p * len(args))(*args)
        self.env = (c_char_p * len(env))(*env)
        self.max_pages = max_pages


class Engine:
    """WasmEdge, loaded once in the forkserver; each worker turns its own copy into one instance."""

    def __init__(self) -> None:
        try:
            lib = _capi.load()
        except (OSError, AttributeError) as error:
            raise EngineMissing(f"{_capi.LIBRARY} does not load ({error}): run packaging/install-wasmedge.sh") from None
        version: bytes = lib.WasmEdge_VersionGet()
        if not version.startswith(VERSION):
            raise EngineMissing(f"{_capi.LIBRARY} is {version.decode()}, this needs {VERSION.decode()}x")
        self.version = version.decode()
        self._lib = lib
        self._wasi = c_void_p()
        self._module = c_void_p()
        self._executor = c_void_p()
        self._function = c_void_p()
        # One object for each out-parameter and name, made here: a worker only fills them in.
        self._tree = c_void_p()
        self._start = _capi.string(b"_start")
        self._initialize = _capi.string(b"_initialize")

    def prime(self) -> None:
        """Do once, in the forkserver, what every instance needs and no guest can influence."""
        lib = self._lib
        lib.WasmEdge_LogOff()  # it would write to stdout, which is the guest's
        self._stack = altstack.FaultStack(lib)
        # Costly (about 0.5 MiB), and the same for all until ModuleInstanceInitWASI.
        self._wasi.value = lib.WasmEdge_ModuleInstanceCreateWASI(None, 0, None, 0, None, 0)

    def load(self, path: bytes, kind: int, arguments: Arguments, preopens: list[tuple[Preopen, int]]) -> None:
        """Parse, validate and instantiate the module file at ``path``, with its WASI world.

        ``preopens`` pairs each with the descriptor of its folder. Raises ``ModuleRefused``.
        """
        lib = self._lib
        conf = lib.WasmEdge_ConfigureCreate()
        # A guest's file is only ever interpreted: native code in it would run as it comes.
        lib.WasmEdge_ConfigureSetForceInterpreter(conf, kind != NATIVE)
        if arguments.max_pages:
            lib.WasmEdge_ConfigureSetMaxMemoryPage(conf, arguments.max_pages)
        self._init_wasi(arguments, preopens)
        loader = lib.WasmEdge_LoaderCreate(conf)
        self._check(lib.WasmEdge_LoaderParseFromFile(loader, self._tree, path), "not a WebAssembly module")
        validator = lib.WasmEdge_ValidatorCreate(conf)
        self._check(lib.WasmEdge_ValidatorValidate(validator, self._tree), "not a valid module")
        self._executor.value = lib.WasmEdge_ExecutorCreate(conf, None)
        store = lib.WasmEdge_StoreCreate()
        self._check(lib.WasmEdge_ExecutorRegisterImport(self._executor, store, self._wasi), "WASI")
        result = lib.WasmEdge_ExecutorInstantiate(self._executor, self._module, store, self._tree)
        self._check(result, "cannot be instantiated", imports=True)

    def find(self, name: bytes) -> None:
        """Choose the exported function to run.

        Raises ``ModuleRefused`` where there is none of that name, or it takes parameters.
        """
        lib = self._lib
        string = self._start if name == b"_start" else _capi.string(name)
        self._function.value = lib.WasmEdge_ModuleInstanceFindFunction(self._module, string)
        if not self._function:
            raise ModuleRefused(f"the module exports no function {name.decode(errors='replace')!r}")
        signature = lib.WasmEdge_FunctionInstanceGetFunctionType(self._function)
        if lib.WasmEdge_FunctionTypeGetParametersLength(signature):
            raise ModuleRefused(
                f"function {name.decode(errors='replace')!r} takes parameters, and there are none to give"
            )

    def run(self, command: bool) -> tuple[int, bytes]:
        """Run the chosen function: its exit status (0 to 255) and, after a trap, what trapped.

        A module that is no ``command`` (a function of it was asked for by name) is initialised first
        where it exports ``_initialize``, as WASI's application ABI wants.
        """
        lib = self._lib
        if not command:
            initialize = lib.WasmEdge_ModuleInstanceFindFunction(self._module, self._initialize)
            if initialize:
                result = lib.WasmEdge_ExecutorInvoke(self._executor, initialize, None, 0, None, 0)
                if not lib.WasmEdge_ResultOK(result):
                    return TRAPPED, lib.WasmEdge_ResultGetMessage(result)
        result = lib.WasmEdge_ExecutorInvoke(self._executor, self._function, None, 0, None, 0)
        if lib.WasmEdge_ResultOK(result):
            return lib.WasmEdge_ModuleInstanceWASIGetExitCode(self._wasi) & 0xFF, b""
        return TRAPPED, lib.WasmEdge_ResultGetMessage(result)

    def _init_wasi(self, arguments: Arguments, preopens: list[tuple[Preopen, int]]) -> None:
        # Without "/." WasmEdge does not get in: it opens with O_NOFOLLOW, and /proc/self/fd/N is a link.
        folders = (c_char_p * len(preopens))(
            *(
                b"%s:/proc/self/fd/%d/.%s" % (preopen.path, fd, b":readonly" if preopen.readonly else b"")
                for preopen, fd in preopens
            )
        )
        self._lib.WasmEdge_ModuleInstanceInitWASI(
            self._wasi,
            arguments.args,
            len(arguments.args),
            arguments.env,
            len(arguments.env),
            folders,
            len(folders),
        )

    def _check(self, result: _capi.Result, what: str, imports: bool = False) -> None:
        if self._lib.WasmEdge_ResultOK(result):
            return
        message = self._lib.WasmEdge_ResultGetMessage(result).decode(errors="replace")
        wanted = self._foreign_imports() if imports and message == "unknown import" else ""
        raise ModuleRefused(f"{what}: {message}{wanted}")

    def _foreign_imports(self) -> str:
        lib = self._lib
        count = min(lib.WasmEdge_ASTModuleListImportsLength(self._tree), 1024)
        imports = (c_void_p * count)()
        lib.WasmEdge_ASTModuleListImports(self._tree, imports, count)
        names = []
        for each in imports:
            module = _capi.text(lib.WasmEdge_ImportTypeGetModuleName(each))
            name = _capi.text(lib.WasmEdge_ImportTypeGetExternalName(each))
            if module != "wasi_snapshot_preview1":
                names.append(f"{module}.{name}")
        return f" (it wants {', '.join(names[:5])})" if names else ""
