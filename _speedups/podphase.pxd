cimport cython

cdef int _UNDEFINED, _QUEUED, _INITIALIZING, _RUNNING, _SUCCESS, _RETRYABLE_FAILURE, _PERMANENT_FAILURE
cdef object _UNSET
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

cpdef str primary_container_name(object pod)
cpdef bint is_ready(object pod) except -1
cpdef bint has_debugger(object pod, object index) except -1
cpdef str terminated_text(str name, object state)
cdef bint _finished_badly(object state) except -1

@cython.final
cdef class PodPhases:
    cdef object _limits, _subdomain, _user, _system, _ide, _phase_info, _execution_error, _task_info
    cdef object _log_context, _pod_log_context, _container_context
    cdef tuple _phases

    @cython.locals(phase=str)
    cpdef Verdict verdict(self, object pod, object now)
    @cython.locals(statuses=tuple)
    cdef Verdict _unnamed(self, object status)
    @cython.locals(statuses=tuple)
    cdef Verdict _primary(self, object status, object spec, str name)
    cdef Verdict _primary_ended(self, str name, object state)
    cpdef Verdict succeeded(self, object status)
    @cython.locals(is_system=bint, code=str, message=str)
    cpdef Verdict failed(self, object status, object primary)
    @cython.locals(verdict=Verdict, late=Verdict, kind=str)
    cpdef Verdict pending(self, object status, object now)
    cdef object _waiting(self, object status)
    @cython.locals(verdict=Verdict, phase=int, is_system=bint, reason=str)
    cdef Verdict _classify(self, object condition, object waiting, object since, object now)
    @cython.locals(values=list, rendered=tuple, debugged=bint)
    cpdef tuple logs(self, object pod, object plan, object task_execution_id, object now)
    @cython.locals(verdict=Verdict, phase=int, version=object, reason=str, index=Py_ssize_t, ready=bint)
    cpdef object phase_info(self, object pod, tuple logs, object now, int last_phase, object last_version,
                            str last_reason)
    cpdef object error(self, Verdict verdict)
    cpdef object task_info(self, object pod, tuple logs, object now)
    cdef object _occurred_at(self, object status)
    cdef object _completed_at(self, object status)
    cpdef object pod_log_context(self, object pod)
    cdef tuple _containers(self, object statuses)

cpdef bint is_terminal(object pod) except -1
cpdef object completion_time(object pod)
