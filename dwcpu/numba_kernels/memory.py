"""Records, pointers and calls by address, for kernels that Numba compiles as C functions.

A `Record` is a C structure of 8-byte fields (see `dwcpu.abi`) behind a pointer. Pointers are only checked by the
kernels; nothing here reads or writes more than it is asked for.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic, lower_getattr_generic, lower_setattr_generic, register_model

from dwcpu.abi import FIELDS

__all__ = [
    "PLAN",
    "REAL",
    "Record",
    "address_of",
    "as_pointer",
    "begin_floats",
    "call",
    "at",
    "end_floats",
    "integer_at",
    "is_null",
    "move",
    "new_record",
    "offset",
    "prefetch",
    "real_of",
    "stack",
]

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)

#: Numba pointer types of the two element types that kernels are written for.
REAL = {np.dtype(np.float32): types.CPointer(types.float32), np.dtype(np.float64): types.CPointer(types.float64)}


# --- records ----------------------------------------------------------------------------------------------------------


class Record(types.Type):
    """Pointer to a structure of 8-byte fields, read and written as attributes.

    `fields` maps each name to its kind as in `dwcpu.abi.FIELDS`: "p" and "i" are int64, "d" is float64.
    """

    def __init__(self, name: str, fields: dict[str, str]) -> None:
        self.fields = fields
        super().__init__(name=f"Record({name})")

    def place(self, builder, pointer, field):
        """Typed address of a field."""
        kind = ir.DoubleType() if self.fields[field] == "d" else I64
        start = builder.gep(pointer, [I64(8 * list(self.fields).index(field))], source_etype=I8)
        return builder.bitcast(start, kind.as_pointer()), kind


PLAN = Record("Plan", FIELDS)


@register_model(Record)
class _RecordModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, I8.as_pointer())


@infer_getattr
class _RecordAttributes(AttributeTemplate):
    key = Record

    def generic_resolve(self, typ, attr):
        kind = typ.fields.get(attr)
        return None if kind is None else types.float64 if kind == "d" else types.int64


@lower_getattr_generic(Record)
def _get_field(context, builder, typ, value, attr):
    place, kind = typ.place(builder, value, attr)
    return builder.load(place, typ=kind)


@lower_setattr_generic(Record)
def _set_field(context, builder, signature, args, attr):
    place, _ = signature.args[0].place(builder, args[0], attr)
    builder.store(args[1], place)


def new_record(record: Record):
    """Intrinsic that makes an uninitialised record on the stack of the calling kernel."""

    @intrinsic
    def make(typingctx):
        def codegen(context, builder, signature, args):
            return cgutils.alloca_once(builder, I8, size=8 * len(record.fields))

        return record(), codegen

    return make


# --- pointers ---------------------------------------------------------------------------------------------------------


def real_of(pointer_type):
    """LLVM type of what a Numba real pointer points to."""
    return ir.FloatType() if pointer_type.dtype == types.float32 else ir.DoubleType()


def at(builder, pointer, index, real):
    """Address of element `index`, while IR is built."""
    return builder.gep(pointer, [index], source_etype=real)


@intrinsic
def offset(typingctx, pointer, elements):
    """Pointer moved by a signed number of elements."""

    def codegen(context, builder, signature, args):
        return at(builder, args[0], args[1], real_of(signature.args[0]))

    return pointer(pointer, types.int64), codegen


@intrinsic
def as_pointer(typingctx, like, address):
    """Integer `address` as a pointer of the type of `like`."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[1], args[0].type)

    return like(like, types.int64), codegen


@intrinsic
def address_of(typingctx, pointer):
    """Where a pointer points to, as an integer."""

    def codegen(context, builder, signature, args):
        return builder.ptrtoint(args[0], I64)

    return types.int64(pointer), codegen


@intrinsic
def is_null(typingctx, pointer):
    """Whether a pointer is null."""

    def codegen(context, builder, signature, args):
        return builder.icmp_unsigned("==", builder.ptrtoint(args[0], I64), I64(0))

    return types.boolean(pointer), codegen


@intrinsic
def prefetch(typingctx, pointer):
    """Ask for the cache line of `pointer`, into the L2 cache; any address will do."""

    def codegen(context, builder, signature, args):
        place = builder.bitcast(args[0], I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, I32(0), I32(2), I32(1)])
        return context.get_dummy_value()

    return types.void(pointer), codegen


@intrinsic
def move(typingctx, destination, source, elements):
    """Copy `elements` reals; the two places may overlap."""

    def codegen(context, builder, signature, args):
        count = builder.mul(args[2], I64(context.get_abi_sizeof(real_of(destination))))
        cgutils.raw_memmove(builder, args[0], args[1], count, itemsize=1)
        return context.get_dummy_value()

    return types.void(destination, source, elements), codegen


@intrinsic
def call(typingctx, address, arguments):
    """Call the C function at `address` with a tuple of pointers, integers and float64s."""

    def codegen(context, builder, signature, args):
        values = cgutils.unpack_tuple(builder, args[1])
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), codegen


def _control_register(builder, name, place):
    """Store (`stmxcsr`) or load (`ldmxcsr`) mode and flags of the floating-point unit; nothing where it is not x86."""
    function = ir.FunctionType(ir.VoidType(), [I8.as_pointer()])
    builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.x86.sse.{name}"), [place])


@intrinsic
def begin_floats(typingctx):
    """Set the standard floating-point mode, as `cython_kernels/floats.h` does; the former one, for `end_floats`."""

    def codegen(context, builder, signature, args):
        if not builder.module.triple.startswith("x86_64"):
            return I32(0)
        place = cgutils.alloca_once(builder, I32)
        pointer = builder.bitcast(place, I8.as_pointer())
        _control_register(builder, "stmxcsr", pointer)
        before = builder.load(place, typ=I32)
        builder.store(I32(0x1F80), place)
        _control_register(builder, "ldmxcsr", pointer)
        return before

    return types.int32(), codegen


@intrinsic
def end_floats(typingctx, before):
    """Bring mode and flags back as they were."""

    def codegen(context, builder, signature, args):
        if builder.module.triple.startswith("x86_64"):
            place = cgutils.alloca_once(builder, I32)
            builder.store(args[0], place)
            _control_register(builder, "ldmxcsr", builder.bitcast(place, I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int32), codegen


@intrinsic
def integer_at(typingctx, address, index):
    """int64 number `index` of the array at `address`."""

    def codegen(context, builder, signature, args):
        place = at(builder, builder.inttoptr(args[0], I64.as_pointer()), args[1], I64)
        return builder.load(place, typ=I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def stack(typingctx, like, elements):
    """Pointer to `elements` reals on the stack, of the type of `like`."""

    def codegen(context, builder, signature, args):
        real = real_of(like)
        place = cgutils.alloca_once(builder, real, size=elements.literal_value)
        place.align = 64
        return builder.bitcast(place, args[0].type)

    return like(like, elements), codegen
