cimport cython
from propfan._speedups cimport pod_layout

cdef int _UNDEFINED, _QUEUED, _INITIALIZING, _RUNNING, _SUCCESS, _RETRYABLE_FAILURE, _PERMANENT_FAILURE
cdef object _UNSET, _pod_values, _add_identity
cdef frozenset _TRUE, _SYSTEM_REASONS, _STARTING
cdef tuple _KILLED_EXIT_CODES

@cython.final
cdef class Verdict:
    cdef readonly int phase
    cdef readonly int version
    cdef readonly str reason, code, message
    cdef readonly bint is_system, cleanup
    cdef public object since, recheck_at

@cython.locals(verdict=Verdict)
cdef Verdict _waits(int phase, int version, str reason)
@cython.locals(verdict=Verdict)
cdef Verdict _fails(int phase, str code, str message, bint is_system)
@cython.locals(verdict=Verdict)
cdef Verdict _fails_waiting(int phase, str code, str message, bint is_system)
cdef object _earlier(object left, object right)
cdef object _end(object start, object period)

@cython.locals(metadata=pod_layout.Metadata, annotations=pod_layout.Annotations)
cpdef str primary_container_name(object pod)
cpdef bint is_ready(object pod) except -1
cpdef bint has_debugger(object pod, object index) except -1
cpdef str terminated_text(str name, pod_layout.Terminated state)
@cython.locals(terminated=pod_layout.Terminated)
cdef bint _finished_badly(pod_layout.State state) except -1

@cython.final
cdef class PodPhases:
    cdef object _limits, _subdomain, _user, _system, _ide, _phase_info, _execution_error, _task_info
    cdef object _log_context, _pod_log_context, _container_context
    cdef tuple _phases

    @cython.locals(phase=str, status=pod_layout.Status, metadata=pod_layout.Metadata, annotations=pod_layout.Annotations)
    cpdef Verdict verdict(self, object pod, object now)
    @cython.locals(container=pod_layout.ContainerStatus)
    cdef Verdict _unnamed(self, pod_layout.Status status)
    @cython.locals(statuses=tuple, container_status=pod_layout.ContainerStatus, state=pod_layout.State)
    cdef Verdict _primary(self, pod_layout.Status status, object spec, str name)
    cdef Verdict _primary_ended(self, str name, pod_layout.Terminated state)
    @cython.locals(container=pod_layout.ContainerStatus, state=pod_layout.State, terminated=pod_layout.Terminated)
    cpdef Verdict succeeded(self, pod_layout.Status status)
    @cython.locals(is_system=bint, code=str, message=str, container=pod_layout.ContainerStatus,
                   state=pod_layout.State, ended=pod_layout.Terminated)
    cpdef Verdict failed(self, pod_layout.Status status, object primary)
    @cython.locals(verdict=Verdict, late=Verdict, kind=str, condition=pod_layout.Condition)
    cpdef Verdict pending(self, pod_layout.Status status, object now)
    @cython.locals(container=pod_layout.ContainerStatus, state=pod_layout.State)
    cdef object _waiting(self, pod_layout.Status status)
    @cython.locals(verdict=Verdict, phase=int, is_system=bint, reason=str)
    cdef Verdict _classify(self, pod_layout.Condition condition, pod_layout.Waiting waiting, object since, object now)
    @cython.locals(values=list, rendered=tuple, debugged=bint, status=pod_layout.Status)
    cpdef tuple logs(self, object pod, object plan, object task_execution_id, object now)
    @cython.locals(verdict=Verdict, phase=int, version=object, reason=str, index=Py_ssize_t, ready=bint)
    cpdef object phase_info(self, object pod, tuple logs, object now, int last_phase, object last_version,
                            str last_reason)
    cpdef object error(self, Verdict verdict)
    @cython.locals(status=pod_layout.Status, metadata=pod_layout.Metadata)
    cpdef object task_info(self, object pod, tuple logs, object now)
    @cython.locals(container=pod_layout.ContainerStatus, state=pod_layout.State, running=pod_layout.Running,
                   terminated=pod_layout.Terminated)
    cdef object _occurred_at(self, pod_layout.Status status)
    @cython.locals(condition=pod_layout.Condition)
    cdef object _completed_at(self, pod_layout.Status status)
    @cython.locals(status=pod_layout.Status, metadata=pod_layout.Metadata)
    cpdef object pod_log_context(self, object pod)
    @cython.locals(status=pod_layout.ContainerStatus, state=pod_layout.State, running=pod_layout.Running,
                   terminated=pod_layout.Terminated)
    cdef tuple _containers(self, object statuses)

cpdef bint is_terminal(object pod) except -1
cpdef object completion_time(object pod)
