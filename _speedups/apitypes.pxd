cimport cython

cdef int STRING, BOOL, INT32, INT64, QUANTITY, INT_OR_STRING, STRUCT, EMBEDDED, LIST, MAP


cdef class Field:
    cdef public str name
    cdef public int kind
    cdef public bint is_pointer
    cdef public bint is_required
    cdef public StructType type


cdef class StructType:
    cdef public str name
    cdef public dict fields
    cdef public dict folded
    cdef public tuple required


@cython.locals(fields=dict, values=dict, out=dict, field=Field)
cpdef dict decode(object value, StructType struct)

@cython.locals(exact=dict, field=Field)
cdef dict _decode_folded(dict value, StructType struct)

cdef object _decode_field(object item, Field field)

@cython.locals(kind=int, values=dict, entries=dict, items=list, decoded=list)
cdef object _decode_any(object item, Field field)

cdef object _decode_item(object item, int kind, StructType struct, Py_ssize_t index)
cdef object _decode_scalar(object item, int kind, StructType struct)
cdef bint _fits(object number, int kind)
cdef str _decode_quantity(object item)
cdef str _number_text(object number)

@cython.locals(out=dict, field=Field, kind=int)
cpdef dict overlay(object base, object over, StructType struct)
