cimport cython


cpdef bint are_plain(tuple used, list values) except -1

@cython.locals(filled=list)
cpdef list fill(tuple plan, list values)
