cimport cython

cdef dict _values
cdef dict _printed

cpdef object value(str text)
cpdef str printed(str text)

@cython.locals(names=list, name=str, request=str, limit=str, ceiling=str)
cpdef dict resolve(dict requests, dict limits, object defaults, object ceilings, frozenset bounded, bint assign)

cdef str _cut(str text, str ceiling)
