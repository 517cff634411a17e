# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
"""The short way of a call whose like was seen before: arrays checked, weights packed and the kernel run, all in C.

`Call` is one operation on one shape; a `Caller`, which every layer is, keeps its own, and `Pool` those of functions,
which bring their weights along. A `Call` answers None to whatever is not plainly right, without having touched
anything: the front door then does it, or says what is wrong.
Compiled for the baseline instruction set.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.long cimport PyLong_AsLongLong, PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.math cimport signbit
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
    typedef void (*dwcpu_kernel)(const void *, const void *, const void *, void *, void *,
                                 int64_t, int64_t, int64_t, int64_t);
    """
    int64_t DWCPU_ABI
    ctypedef void (*dwcpu_kernel)(
        const void *, const void *, const void *, void *, void *, int64_t, int64_t, int64_t, int64_t) noexcept nogil

#: `_driver.run_one` and `_driver.run_row`.
ctypedef void (*Drive)(
    int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, const int64_t *) noexcept nogil
ctypedef void (*DriveRow)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t) noexcept nogil

cdef extern from "floats.h" nogil:
    ctypedef struct floats_t:
        pass
    floats_t begin_floats() noexcept
    void end_floats(floats_t before) noexcept

cdef extern from "numpy/arrayobject.h":
    ctypedef Py_ssize_t npy_intp
    ctypedef struct PyArrayObject:
        pass
    int _import_array() except -1
    bint PyArray_CheckExact(object)
    bint PyArray_ISCARRAY(const PyArrayObject *)
    bint PyArray_ISCARRAY_RO(const PyArrayObject *)
    int PyArray_TYPE(const PyArrayObject *)
    int PyArray_NDIM(const PyArrayObject *)
    npy_intp *PyArray_DIMS(const PyArrayObject *)
    npy_intp PyArray_NBYTES(const PyArrayObject *)
    void *PyArray_DATA(const PyArrayObject *)
    object PyArray_SimpleNew(int, npy_intp *, int)
    object PyArray_SimpleNewFromData(int, npy_intp *, int, void *)
    int PyArray_SetBaseObject(PyArrayObject *, PyObject *) except -1  # takes the reference
    enum:
        NPY_FLOAT
        NPY_DOUBLE
        NPY_UINT8

ctypedef int64_t i64

#: Elements are moved, never looked at.
ctypedef fused word:
    uint32_t
    uint64_t

ABI = DWCPU_ABI  # see dwcpu.abi

_import_array()

cdef enum:
    MOST_AXES = 4
    MOST_PARTS = 8
    MOST_THREADS = 1 << 20  # far beyond what is allowed: anything larger is an error that the front door explains
    LINE = 64               # as in arrays.py: bytes of a cache line, and of the smallest array that starts on one
    WORTH_ALIGNING = 4096
    APART = 768             # and where outputs lie, seen from inputs
    APART_TURN = 1024
    TILE = 16


cdef struct Shape:
    int axes
    npy_intp sizes[MOST_AXES]


cdef struct Packing:
    bint panels       # of a matrix product; else depthwise
    i64 taps
    i64 inputs        # channels of a group; of the image where depthwise, or of what its kernel takes for it
    i64 outputs       # of a group of panels; of a channel where depthwise
    i64 all_outputs
    i64 lanes
    i64 vectors
    i64 period        # depthwise: channels after which they repeat, if they do
    i64 tap_step      # in the weights as they come, in elements
    i64 input_step
    i64 output_step
    char *weights     # packed
    char *bias


cdef inline PyArrayObject *as_array(object array) noexcept:
    return <PyArrayObject *> <PyObject *> array


cdef Shape shape_of(tuple sizes) except *:
    cdef Shape shape
    if len(sizes) > MOST_AXES:
        raise ValueError(f"Call: shape is {sizes}; it must have at most {MOST_AXES} axes; reshape it")
    shape.axes = <int> len(sizes)
    for axis in range(len(sizes)):
        shape.sizes[axis] = sizes[axis]
    return shape


cdef inline bint fits(object array, const Shape *shape, int type_number, bint writeable) noexcept:
    """Whether it is a plain array of that shape and type that kernels can take."""
    cdef const PyArrayObject *given
    cdef const npy_intp *sizes
    cdef int axis
    if not PyArray_CheckExact(array):
        return False
    given = as_array(array)
    if PyArray_TYPE(given) != type_number or PyArray_NDIM(given) != shape.axes:
        return False
    sizes = PyArray_DIMS(given)
    for axis in range(shape.axes):
        if sizes[axis] != shape.sizes[axis]:
            return False
    return PyArray_ISCARRAY(given) if writeable else PyArray_ISCARRAY_RO(given)


cdef inline bint apart(object one, object other) noexcept:
    """Whether two contiguous arrays share no memory."""
    cdef const char *first = <const char *> PyArray_DATA(as_array(one))
    cdef const char *second = <const char *> PyArray_DATA(as_array(other))
    return first + PyArray_NBYTES(as_array(one)) <= second or second + PyArray_NBYTES(as_array(other)) <= first


cdef i64 bytes_of(const Shape *shape, i64 itemsize) noexcept:
    """Of an array."""
    cdef i64 size = itemsize
    cdef int axis
    for axis in range(shape.axes):
        size *= shape.sizes[axis]
    return size


cdef object empty(Shape *shape, int type_number, i64 itemsize, object x):
    """`arrays.empty`."""
    cdef npy_intp size = bytes_of(shape, itemsize)
    cdef i64 turn = LINE, place = 0
    cdef char *start
    if size < WORTH_ALIGNING:
        return PyArray_SimpleNew(shape.axes, shape.sizes, type_number)
    if x is not None:
        turn, place = APART_TURN, <i64> PyArray_DATA(as_array(x)) // LINE * LINE + APART
    size += turn
    raw = PyArray_SimpleNew(1, &size, NPY_UINT8)
    start = <char *> PyArray_DATA(as_array(raw))
    start += <uint64_t> (place - <i64> start) % <uint64_t> turn
    result = PyArray_SimpleNewFromData(shape.axes, shape.sizes, type_number, start)
    Py_INCREF(raw)
    PyArray_SetBaseObject(as_array(result), <PyObject *> raw)
    return result


cdef inline void move(word *target, const word *source, i64 count, i64 step) noexcept nogil:
    cdef i64 i
    if step == 1:
        memcpy(target, source, count * sizeof(word))
    else:
        for i in range(count):
            target[i] = source[i * step]


cdef void pack_filters(const Packing *p, word *panel, const word *w, i64 outputs, i64 columns) noexcept nogil:
    """One panel from filters ``[output][input][tap]``, in tiles, so that cache lines are read and written whole."""
    cdef word tile[TILE][TILE]
    cdef word *target
    cdef i64 down, across, output, row, o, r, height, width, rows = p.taps * p.inputs
    for across in range((rows + TILE - 1) // TILE):
        row = across * TILE
        width = min(<i64> TILE, rows - row)
        for down in range((outputs + TILE - 1) // TILE):
            output = down * TILE
            height = min(<i64> TILE, outputs - output)
            for o in range(height):
                memcpy(&tile[o][0], w + (output + o) * rows + row, width * sizeof(word))
            for r in range(width):
                target = panel + ((row + r) % p.taps * p.inputs + (row + r) // p.taps) * columns + output
                for o in range(height):
                    target[o] = tile[o][r]


cdef void pack(const Packing *p, const word *w, const word *bias) noexcept nogil:
    """`packing.depthwise_panels` and `gemm_panels`, into memory that they filled before: padding is there already."""
    cdef word *target = <word *> p.weights
    cdef word *target_bias = <word *> p.bias
    cdef const word *first
    cdef i64 block, start, count, row, tap, j, column, columns, filled, padded, width
    if not p.panels and p.period < p.inputs:
        for column in range(p.inputs):
            start = column % p.period
            first = w + start * p.input_step
            row = column // p.lanes * p.taps * p.lanes + column % p.lanes
            for tap in range(p.taps):
                target[row + tap * p.lanes] = first[tap * p.tap_step]
            if bias != NULL:
                target_bias[column] = bias[start]
        return
    if not p.panels:
        count = min(p.lanes, p.inputs)
        for block in range((p.inputs + p.lanes - 1) // p.lanes):
            start = min(block * p.lanes, p.inputs - count)
            for tap in range(p.taps):
                for j in range(p.outputs):
                    move(target, w + tap * p.tap_step + start * p.input_step + j * p.output_step, count, p.input_step)
                    target += p.lanes
            if bias != NULL:
                for j in range(p.outputs):
                    move(target_bias, bias + start * p.outputs + j, count, p.outputs)
                    target_bias += p.lanes
        return
    width = p.lanes * p.vectors
    start = 0
    while start < p.all_outputs:
        count = min(p.outputs, p.all_outputs - start)
        padded = (count + p.lanes - 1) // p.lanes * p.lanes
        if bias != NULL:
            move(target_bias, bias + start, count, 1)
            target_bias += padded
        column = 0
        while column < padded:
            columns = min(width, padded - column)
            if 1 < p.vectors < 4 and padded - column == width + p.lanes:  # abi.panel_widths
                columns = width + p.lanes
            filled = min(columns, count - column)
            first = w + (start + column) * p.output_step
            if p.output_step != 1:
                pack_filters(p, target, first, filled, columns)
            else:
                for row in range(p.taps * p.inputs):
                    move(target + row * columns, first + row * p.input_step, filled, 1)
            target += p.taps * p.inputs * columns
            column += columns
        start += count


cdef class Call:
    """One operation on one shape with one number of threads: see `dwcpu.calls.Call`."""

    cdef Shape x_shape, out_shape, x_image, out_image
    cdef bint turned
    cdef int type_number
    cdef i64 itemsize
    cdef object runner, threads, scratch_of, scratch_size
    cdef i64 thread_count
    cdef dwcpu_kernel kernel
    cdef void *plan
    cdef i64 cut[9]  # `grid.Grid.arguments`
    cdef i64 turns[3][11]  # kernel, plan and `Grid.arguments` of what turns x, the residual and the result
    cdef Drive turn  # NULL where nothing is turned
    cdef bint held_images  # whether turned images lie in scratch, and where: x, the result and the residual, and their end
    cdef i64 places[4]
    cdef tuple kept
    cdef Drive drive  # NULL where it is one task
    cdef DriveRow drive_row  # NULL where it is one kernel
    cdef i64 steps, count, team
    cdef int parts
    cdef Packing packings[MOST_PARTS]
    cdef tuple packed
    #: Bytes of the packed weights.
    cdef readonly i64 size

    def __init__(
        self, tuple x_shape, tuple out_shape, tuple x_image, tuple out_image, turned, dtype, runner, threads,
        launch, tuple drives, scratch_of, i64 most_scratch, tuple packings=(), tuple turns=()
    ):
        self.x_shape, self.out_shape = shape_of(x_shape), shape_of(out_shape)
        self.x_image, self.out_image = shape_of(x_image), shape_of(out_image)
        self.turned = turned
        self.type_number, self.itemsize = (NPY_FLOAT, 4) if dtype.char == "f" else (NPY_DOUBLE, 8)
        self.runner, self.threads, self.thread_count, self.scratch_of = runner, threads, threads, scratch_of
        self.kernel, self.scratch_size = NULL, 0
        self.drive, self.drive_row, self.turn, self.kept = NULL, NULL, NULL, turns
        one, row = drives
        if turns and one:
            self.turn = <Drive> <void *> <i64> one
            for place, turn in enumerate(turns):
                numbers = turn.kernel, turn.plan.ctypes.data, *turn.grid.arguments
                for number in range(11):
                    self.turns[<int> place][number] = numbers[number]
        if launch is None:
            pass
        elif len(launch) == 4:
            if row:
                self.drive_row = <DriveRow> <void *> <i64> row
                self.steps, self.count, self.team = launch[0], launch[1], launch[2]
                self.scratch_size = launch[3]
        elif launch[8] == 1 or one:
            self.kernel = <dwcpu_kernel> <void *> <i64> launch[0]
            self.plan = <void *> <i64> launch[1]
            for number in range(9):
                self.cut[number] = launch[2 + number]
            self.scratch_size = launch[2] * launch[8]
            if launch[8] > 1:
                self.drive = <Drive> <void *> <i64> one
        self.place_images(most_scratch)
        self.parts, self.packed, self.size = len(packings), packings, 0
        if self.parts > MOST_PARTS:
            raise ValueError(f"Call: packings has {self.parts} entries; it must have at most {MOST_PARTS}; give fewer")
        for number, packing in enumerate(packings):
            self.packings[number] = self.packing_of(packing)

    cdef void place_images(self, i64 most) noexcept:
        """Have turned images lie behind the kernel's scratch, if all that is kept takes `most` bytes.

        Memory that is new at each call may be new to the process: three thousand cycles a page.
        """
        cdef i64 x_bytes = bytes_of(&self.x_image, self.itemsize), out_bytes = bytes_of(&self.out_image, self.itemsize)
        cdef i64 place = (self.scratch_size + LINE - 1) // LINE * LINE
        self.places[0] = place
        self.places[1] = place + APART + (x_bytes + APART_TURN - 1 - APART) // APART_TURN * APART_TURN
        self.places[2] = (self.places[1] + out_bytes + LINE - 1) // LINE * LINE
        self.places[3] = self.places[2] + out_bytes
        self.held_images = self.turn != NULL and (self.kernel != NULL or self.drive_row != NULL) and self.places[3] <= most

    cdef Packing packing_of(self, tuple packing) except *:
        cdef Packing p
        panels, sizes, steps, weights, bias = packing
        p.panels = panels
        p.taps, p.inputs, p.outputs, p.all_outputs, p.lanes, p.vectors, p.period = sizes
        p.tap_step, p.input_step, p.output_step = steps
        p.weights, p.bias = <char *> PyArray_DATA(as_array(weights)), <char *> PyArray_DATA(as_array(bias))
        self.size += weights.nbytes + bias.nbytes
        return p

    def apply(self, x, residual, out):
        """The result, or None where something is not plainly right; nothing has been done then."""
        if not fits(x, &self.x_shape, self.type_number, False):
            return None
        return self.run(x, residual, out, ())

    cdef void turned_image(self, int which, const void *source, void *target) noexcept nogil:
        self.turn(
            self.turns[which][0], self.turns[which][1], <i64> source, 0, <i64> target, 0, &self.turns[which][2])

    cdef run(self, x, residual, out, tuple weights):
        """As `apply`; `x` and the weights, a bias after each array of them, fit."""
        cdef void *x_data
        cdef void *residual_data = NULL
        cdef void *out_data
        cdef void *scratch = NULL
        cdef const void *given[MOST_PARTS]
        cdef const void *given_bias[MOST_PARTS]
        cdef int part, parts = 0
        cdef floats_t floats
        if self.turned and self.turn == NULL:
            return None
        if out is None:
            pass
        elif not fits(out, &self.out_shape, self.type_number, True) or not apart(out, x):
            return None
        if residual is None:
            pass
        elif not fits(residual, &self.out_shape, self.type_number, False):
            return None
        elif out is not None and not apart(out, residual):
            return None
        result = empty(&self.out_shape, self.type_number, self.itemsize, x) if out is None else out

        inner_x, inner_residual, inner_out = x, residual, result
        if self.turned and not self.held_images:
            inner_x = empty(&self.x_image, self.type_number, self.itemsize, None)
            inner_out = empty(&self.out_image, self.type_number, self.itemsize, inner_x)
            if residual is not None:
                inner_residual = empty(&self.out_image, self.type_number, self.itemsize, None)

        x_data, out_data = PyArray_DATA(as_array(inner_x)), PyArray_DATA(as_array(inner_out))
        if residual is not None:
            residual_data = PyArray_DATA(as_array(inner_residual))
        if len(weights):
            parts = self.parts
            for part in range(parts):
                given[part] = PyArray_DATA(as_array(weights[2 * part]))
                bias = weights[2 * part + 1]
                given_bias[part] = NULL if bias is None else PyArray_DATA(as_array(bias))
        cdef i64 size = self.scratch_size
        if self.held_images:
            size = self.places[2 if residual is None else 3]
        if size:
            held = self.scratch_of(size)
            scratch = <void *> <i64> (<tuple> held)[0]
        if self.held_images:
            x_data, out_data = <char *> scratch + self.places[0], <char *> scratch + self.places[1]
            if residual is not None:
                residual_data = <char *> scratch + self.places[2]
        cdef const void *x_given = PyArray_DATA(as_array(x))
        cdef const void *residual_given = NULL if residual is None else PyArray_DATA(as_array(residual))
        cdef void *out_given = PyArray_DATA(as_array(result))
        with nogil:
            for part in range(parts):
                if self.itemsize == 4:
                    pack(&self.packings[part], <const uint32_t *> given[part], <const uint32_t *> given_bias[part])
                else:
                    pack(&self.packings[part], <const uint64_t *> given[part], <const uint64_t *> given_bias[part])
            if self.turned:
                self.turned_image(0, x_given, x_data)
                if residual_given != NULL:
                    self.turned_image(1, residual_given, residual_data)
            if self.drive_row != NULL:
                self.drive_row(
                    self.steps, self.count, self.team, <i64> scratch, <i64> x_data, <i64> residual_data,
                    <i64> out_data)
            elif self.drive != NULL:
                self.drive(
                    <i64> self.kernel, <i64> self.plan, <i64> x_data, <i64> residual_data, <i64> out_data,
                    <i64> scratch, &self.cut[0])
            elif self.kernel != NULL:
                floats = begin_floats()
                self.kernel(self.plan, x_data, residual_data, out_data, scratch, 0, self.cut[1], 0, self.cut[4])
                end_floats(floats)
        if self.kernel == NULL and self.drive_row == NULL:
            self.runner(inner_x, inner_residual, inner_out, self.threads)
        if self.turned:
            with nogil:
                self.turned_image(2, out_data, out_given)
        return result


@cython.auto_pickle(False)  # of what is here, nothing; subclasses see to the rest
cdef class Caller:
    """See `dwcpu.calls.Caller`."""

    cdef readonly tuple known
    cdef object default_threads

    def __cinit__(self, *_, **__):
        self.known = ()

    def _remember(self, tuple known not None, default_threads):
        for call in known:
            if not isinstance(call, Call):
                raise TypeError(f"Caller: got a {type(call).__name__}; known calls are of the class Call; pass those")
        self.known, self.default_threads = known, default_threads

    def __call__(self, x, *, out=None, residual=None, num_threads=None):
        """See `dwcpu.layers.Layer`."""
        cdef tuple known = self.known
        cdef object threads = num_threads
        cdef Call call
        cdef i64 count
        if len(known) > 0 and PyArray_CheckExact(x):
            if threads is None:
                threads = self.default_threads()
            if PyLong_CheckExact(threads) and 0 < threads < MOST_THREADS:
                count = PyLong_AsLongLong(threads)
                for each in known:
                    call = <Call> each
                    if call.thread_count == count and fits(x, &call.x_shape, call.type_number, False):
                        result = call.run(x, residual, out, ())
                        if result is not None:
                            return result
                        break
        return self._long_way(x, residual, out, num_threads)


cdef bint plain(tuple options, bint floats) noexcept:
    """Whether equal options mean the same: 1 equals True and 1.0, which are errors, and 0.0 equals -0.0.

    Floats are for activations, where they follow a name and mean what equal integers do.
    """
    cdef type kind
    for option in options:
        kind = type(option)
        if kind is int or kind is str or option is None:
            continue
        if kind is tuple:
            if not plain(option, len(<tuple> option) > 0 and type((<tuple> option)[0]) is str):
                return False
        elif kind is not float or not floats or (option == 0.0 and signbit(<double> option)):
            return False
    return True


cdef class Pool:
    """The calls of functions, by everything but the values of their arrays; each is used by one thread at a time.

    Attributes
    ----------
    free : dict
        From what `key` gives to the calls of that kind that nobody is using.
    """

    cdef readonly dict free
    cdef object default_threads

    def __init__(self, default_threads):
        self.free = {}
        self.default_threads = default_threads

    def key(self, tuple options not None, x, num_threads, tuple weights not None):
        """What a call is kept under, or None if it has anything in it that is not plain."""
        cdef i64 words[2 + (1 + 2 * MOST_PARTS) * (1 + MOST_AXES)]
        cdef int used = 2, axis, type_number
        cdef const PyArrayObject *given
        if not PyArray_CheckExact(x) or not plain(options, False) or len(weights) > 2 * MOST_PARTS:
            return None
        type_number = PyArray_TYPE(as_array(x))
        if num_threads is None:
            num_threads = self.default_threads()
        elif not PyLong_CheckExact(num_threads) or not 0 < num_threads < MOST_THREADS:
            return None
        words[0], words[1] = PyLong_AsLongLong(num_threads), type_number
        for array in (x, *weights):
            if array is None:
                words[used] = -1
                used += 1
                continue
            if not PyArray_CheckExact(array):
                return None
            given = as_array(array)
            if (
                PyArray_TYPE(given) != type_number or PyArray_NDIM(given) > MOST_AXES
                or not PyArray_ISCARRAY_RO(given)
            ):
                return None
            words[used] = PyArray_NDIM(given)
            used += 1
            for axis in range(PyArray_NDIM(given)):
                words[used] = PyArray_DIMS(given)[axis]
                used += 1
        return options, PyBytes_FromStringAndSize(<char *> words, used * sizeof(i64))

    def again(self, tuple options not None, x, residual, out, num_threads, *weights):
        """The result, if there is a free call of this kind and everything is plainly right; else None."""
        key = self.key(options, x, num_threads, weights)
        if key is None:
            return None
        free = <list> self.free.get(key)
        if not free:
            return None
        try:
            call = <Call> free.pop()
        except IndexError:  # another thread was faster
            return None
        try:
            return call.run(x, residual, out, weights)
        finally:
            free.append(call)
