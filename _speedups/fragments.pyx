"""JSON texts that were cut where something is inserted. Defined by ``fragments_pure.py``."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from propfan._speedups import fragments_pure

FragmentError = fragments_pure.FragmentError
cut = fragments_pure.cut

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef const char* HEX = "0123456789abcdef"

# What a byte is written as: 1 itself, 0 as \u00xx, else a backslash and this letter.
cdef unsigned char[256] ESCAPES
cdef int _byte
for _byte in range(256):
    ESCAPES[_byte] = 1 if _byte >= 0x20 else 0
ESCAPES[8] = 98
ESCAPES[9] = 116
ESCAPES[10] = 110
ESCAPES[12] = 102
ESCAPES[13] = 114
ESCAPES[34] = 34
ESCAPES[92] = 92


cdef struct Buffer:
    char* data
    Py_ssize_t size
    Py_ssize_t room


cdef int reserve(Buffer* buffer, Py_ssize_t more) except -1:
    cdef Py_ssize_t room = buffer.room
    cdef char* data
    if buffer.size + more <= room:
        return 0
    while room < buffer.size + more:
        room *= 2
    data = <char*>realloc(buffer.data, room)
    if data == NULL:
        raise MemoryError()
    buffer.data = data
    buffer.room = room
    return 0


cdef int put(Buffer* buffer, const char* data, Py_ssize_t size) except -1:
    reserve(buffer, size)
    memcpy(buffer.data + buffer.size, data, size)
    buffer.size += size
    return 0


cdef int put_text(Buffer* buffer, object text) except -1:
    """The inside of a JSON string; six bytes are the most that one is written as."""
    cdef Py_ssize_t size
    cdef const unsigned char* data = <const unsigned char*>PyUnicode_AsUTF8AndSize(text, &size)
    cdef Py_ssize_t at
    cdef unsigned char byte, escape
    cdef char* out
    reserve(buffer, 6 * size)
    out = buffer.data + buffer.size
    for at in range(size):
        byte = data[at]
        escape = ESCAPES[byte]
        if escape == 1:
            out[0] = byte
            out += 1
        elif escape:
            out[0] = 92
            out[1] = escape
            out += 2
        else:
            memcpy(out, b"\\u00", 4)
            out[4] = HEX[byte >> 4]
            out[5] = HEX[byte & 15]
            out += 6
    buffer.size = out - buffer.data
    return 0


cdef int put_variables(Buffer* buffer, object variables) except -1:
    cdef bint is_first = True
    for name in sorted(variables):
        put(buffer, b'{"name":"' if is_first else b',{"name":"', 9 if is_first else 10)
        is_first = False
        put_text(buffer, name)
        value = variables[name]
        if value:
            put(buffer, b'","value":"', 11)
            put_text(buffer, value)
        put(buffer, b'"}', 2)
    return 0


def render(tuple program not None, list values not None):
    cdef Buffer buffer
    cdef Py_ssize_t index, count = len(values)
    cdef object part, value
    buffer.size = 0
    buffer.room = 8192
    buffer.data = <char*>malloc(buffer.room)
    if buffer.data == NULL:
        raise MemoryError()
    try:
        for part in program:
            if type(part) is bytes:
                put(&buffer, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
                continue
            index = part
            if index < -count or index >= count:
                raise FragmentError(f"there are {count} values, number {index} is asked for")
            value = values[index]
            if isinstance(value, str):
                put_text(&buffer, value)
            else:
                put_variables(&buffer, value)
        return PyBytes_FromStringAndSize(buffer.data, buffer.size)
    except UnicodeEncodeError as error:
        raise FragmentError(f"a text is no valid Unicode: {error.reason}") from None
    finally:
        free(buffer.data)


def empties(list values not None):
    cdef Py_ssize_t index, count = len(values)
    cdef unsigned long long mask = 0
    if count > 64:
        return fragments_pure.empties(values)
    for index in range(count):
        if not values[index]:
            mask |= 1ULL << index
    return mask


def have_brace(list values not None, tuple indexes not None):
    cdef Py_ssize_t index
    for index in indexes:
        if "{" in values[index]:
            return True
    return False
