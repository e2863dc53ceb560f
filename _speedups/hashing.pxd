cimport cython
from libc.stdint cimport uint64_t


@cython.locals(digest=uint64_t, byte=cython.uchar)
cpdef uint64_t fnv1a_32(bytes content)
