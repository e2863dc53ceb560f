cimport cython
from propfan._speedups cimport pod_layout

cdef unsigned int _CONTAINER, _GENERATED, _IDENTITY, _TASK, _EXECUTION, _TIMES
cdef object _EPOCH, _SECOND, _NEVER, _LAST

@cython.final
cdef class Template:
    cdef str _first
    cdef tuple _gaps
    @cython.locals(gap=tuple, parts=list, value=str)
    cpdef str fill(self, list values)

@cython.final
cdef class PlainLink:
    cdef Template uri, name, query
    cdef tuple details
    cdef object encode
    cdef bint only_with_debugger

@cython.final
cdef class PlainLinks:
    cdef tuple _links, _used
    cdef object _make
    @cython.locals(link=PlainLink, log_name=str, uri=str, name=str, rendered=list, value=str)
    cpdef tuple render(self, list values, bint has_debugger)

cpdef str rfc3339(object when)
cpdef object unix_seconds(object when)
cpdef str bare_container_id(str container_id)
@cython.locals(containers=tuple, statuses=tuple, values=list, container_id=str, status=pod_layout.Status,
               metadata=pod_layout.Metadata)
cpdef list pod_values(object pod, object index, unsigned int used, object now)
cpdef object add_identity(list values, unsigned int used, object task_execution_id, object subdomain)
