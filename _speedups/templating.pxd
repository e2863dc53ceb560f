cimport cython


@cython.locals(filled=list)
cpdef list fill(tuple plan, list values)
