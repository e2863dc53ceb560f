cimport cython

cdef object _power(int exponent)
cdef int _exponent_of(str suffix) except? -1000000

@cython.locals(length=cython.Py_ssize_t, at=cython.Py_ssize_t, first=cython.Py_ssize_t, start=cython.Py_ssize_t, whole=cython.Py_ssize_t,
               point=cython.Py_ssize_t, places=cython.Py_ssize_t, suffix_at=cython.Py_ssize_t,
               letters=cython.Py_ssize_t, kept=bint, is_small=bint, rank=int, letter=cython.Py_UCS4, family=int, exponent=int, scale=int)
cdef tuple _parse(str text, bint only_print)

cdef int _rank(Py_UCS4 letter)

@cython.locals(number=int, at=cython.Py_ssize_t)
cdef int _last_digits(str text, Py_ssize_t start, Py_ssize_t point)

@cython.locals(digits=int, at=cython.Py_ssize_t)
cdef bint _ends_in_thousands(str text, Py_ssize_t start, Py_ssize_t point, Py_ssize_t places)

cdef str _print_small(long long number, int scale, int family)

@cython.locals(step=int, exponent=int)
cdef str _print(object value, int family)

cpdef str canonical(str text)
cpdef str settled(str text)
cpdef object nanos(str text)
cpdef bint is_zero(str text) except? -1
cpdef int compare(str left, str right) except? -2
