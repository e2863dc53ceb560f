cimport cython

cdef object _power(int exponent)
cdef int _exponent_of(str suffix) except? -1000000

@cython.locals(length=cython.Py_ssize_t, at=cython.Py_ssize_t, start=cython.Py_ssize_t, letters=cython.Py_ssize_t,
               negative=bint, kept=bint, family=int, exponent=int, scale=int,
               integer=str, fraction=str, suffix=str, digits=str)
cdef tuple _parse(str text)

@cython.locals(step=int, exponent=int)
cdef str _print(object value, int family)

cpdef str canonical(str text)
cpdef str settled(str text)
cpdef object nanos(str text)
cpdef bint is_zero(str text) except? -1
cpdef int compare(str left, str right) except? -2
