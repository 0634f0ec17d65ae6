"""One tool call, from its interception to its record.

    setup             what a guard is made of: its adapters (`Ports`) and how it works (`Options`)
    flow              `Enforcement` holds what both paths share; `Flow` is the flow on one path
    guarded_call      one call: judged and begun on the way in, ended and recorded on the way out
    call_ending       the end of a call that has begun
    calls_here        the calls and the ends of tasks of this process
    access_requests   the request that is judged
    judgement         one call is judged until the store begins it, by `look`s at the store, or by the
                      `recollection` of what this process has last seen there
    authorization     judges a call by mandate, rights and policy; a call is judged here and nowhere else
    evaluation        what was decided, and what may be issued for it
    approval          asks a person about one exact call
    run_state         what a person is shown of the graph's state; `state_form` writes its values
    entitlements      what user, agent and task may do together
    routing           which broker serves a resource on a path
    issuance          the call's credential: recorded, minted, revoked
    missing_grants    asks the user for what the issuer misses of them, and lets the run wait
    task_credentials  credentials that serve one task, and the users' tokens
    recording         what is written, and when; `records` says what stands in the audit log
    outbox            revokes what is left alive, also after a crash; `process` knows which process lives
    outbox_thread     reads the outbox while anything is left; `issuer_thread` has one issuer revoke, and
                      `backlog` says what is due there (`woken_thread`: how both begin and end)
    operations        every operation that is asked of a port, typed, for either path
    call              a call on its way: `Invocation` and `Permit`

No room here knows a framework or an adapter.
"""
