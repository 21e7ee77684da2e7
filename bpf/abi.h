/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the programs and user space agree on: keys, values, events, and the lists of verdicts and
 * drop reasons. It stands once. The compiler takes the layouts from here, and so does the agent,
 * which parses this file: keep to plain structs, fixed-width types, defines of numbers and the
 * X-macro lists. A change of any layout or number is a new SLUICE_ABI.
 */
#ifndef SLUICE_ABI_H
#define SLUICE_ABI_H

#include <linux/types.h>

#define SLUICE_ABI 1

/* Identities below FIRST_IDENTITY are reserved. */
#define IDENTITY_ANY 0   /* in a policy key: every peer */
#define IDENTITY_NODE 1  /* the node itself */
#define IDENTITY_WORLD 2 /* no narrower prefix is known */
#define FIRST_IDENTITY 256

#define DIRECTION_INGRESS 0 /* to the subject */
#define DIRECTION_EGRESS 1  /* from the subject */

/* X(name, number, what it means) */
#define VERDICTS(X)                                                                                \
	X(DENY, 0, "dropped")                                                                      \
	X(ALLOW, 1, "passed at layer 4")                                                           \
	X(HANDOFF, 2, "passed to the tenant's proxy")                                              \
	X(AUDIT, 3, "passed, but would have been denied")

/* X(name, number, what happened). 0 is a packet that lives. */
#define DROP_REASONS(X)                                                                            \
	X(NONE, 0, "forwarded")                                                                    \
	X(TRUNCATED, 1, "a header ends beyond the packet")                                         \
	X(MALFORMED, 2, "a header contradicts itself")                                             \
	X(EXTENSIONS, 3, "headers that are not followed: too many, or source routing")             \
	X(PROTOCOL, 4, "an ethertype that is not IPv4, IPv6 or ARP")                               \
	X(FRAGMENT, 5, "a fragment whose first one was not seen, or that overlaps its header")     \
	X(NO_WORKLOAD, 6, "the interface belongs to no workload or proxy")                         \
	X(SOURCE, 7, "the workload does not own the source address")                               \
	X(NEIGHBOUR, 8, "ARP or neighbour discovery for an address that is not the sender's")      \
	X(POLICY_EGRESS, 9, "egress policy of the source")                                         \
	X(POLICY_INGRESS, 10, "ingress policy of the destination")                                 \
	X(PROXY_NOT_READY, 11, "to be handed off, but the tenant's proxy is not ready")            \
	X(PROXY_MIDSTREAM, 12, "to be handed off, but the connection's start was not seen")        \
	X(PROXY_SOURCE, 13, "a proxy spoke for an address that is not its client's")               \
	X(PROXY_PROTOCOL, 14, "a proxy sent something other than TCP")                             \
	X(PROXY_COLLISION, 15, "a proxy's port is in use by its client's own connection")          \
	X(CONNTRACK_FULL, 16, "no room for the flow")                                              \
	X(ICMP_UNRELATED, 17, "an ICMP error about a flow that does not exist")                    \
	X(DESTINATION, 18, "the destination does not live behind the interface")                   \
	X(NO_LISTENER, 19, "the proxy does not listen")                                            \
	X(TCP_FLAGS, 20, "a TCP segment whose flags contradict each other")                        \
	X(PROXY_TENANT, 21, "a proxy reached for what another tenant's proxy is to handle")

/* An address, 128 bits, in wire order; IPv4 as ::ffff:a.b.c.d. */
struct address {
	__be32 word[4];
};

/* workloads: node-side interface -> who lives behind it. */
struct workload_key {
	__u32 ifindex;
};

struct workload {
	__u32 identity;
	__u32 tenant;     /* 0: the namespace has no Tenant */
	__u8 mac[6];      /* of the workload's own end */
	__u8 node_mac[6]; /* of the node's end */
};

/* local_addrs: an address of a workload on this node -> where it lives. */
struct local_addr {
	__u32 ifindex; /* node side */
	__u32 identity;
	__u32 tenant;
	__u8 mac[6];      /* of the workload's own end */
	__u8 node_mac[6]; /* of the node's end */
};

/* identities: LPM, prefix -> identity. */
struct identity_key {
	__u32 prefixlen; /* bits, 0 to 128 */
	struct address address;
};

#define IDENTITY_IS_NODE 1 /* flags: an address of the node itself */

struct identity_value {
	__u32 identity;
	__u32 flags;
};

/* policy: LPM over everything after prefixlen, in this order. */
struct policy_key {
	__u32 prefixlen; /* bits: 72 any protocol, 80 any port, up to 96 */
	__u32 subject;   /* identity that the policy selects */
	__u32 peer;      /* identity, or IDENTITY_ANY */
	__u8 direction;  /* DIRECTION_*, as the subject sees it */
	__u8 protocol;   /* IANA number */
	__be16 port;     /* of the destination */
};

#define POLICY_PREFIX_PEER 72     /* every protocol */
#define POLICY_PREFIX_PROTOCOL 80 /* every port of one protocol */

struct policy_value {
	__u8 verdict;
	__u8 pad;
	__u16 precedence; /* the higher one wins between two rows that match */
	__u32 rule;
};

/*
 * conntrack: one entry for both directions of a flow. `low` is the end with the smaller
 * (address, port), so either direction finds the same key. Traffic between a client and the
 * proxy that serves it has the same ends as the flow it stands for, hence `leg`.
 */
#define LEG_DIRECT 0 /* end to end, or from a proxy to the server */
#define LEG_CLIENT 1 /* between the client and a proxy */

struct flow_key {
	struct address low;
	struct address high;
	__be16 low_port; /* ICMP echo: the identifier at the end that asks, 0 at the other */
	__be16 high_port;
	__u8 protocol;
	__u8 leg;
	__u16 pad;
};

#define FLOW_LOW_IS_ORIGINATOR 1 /* flags of struct flow */
#define FLOW_FROM_PROXY 2        /* a proxy's upstream leg */
#define FLOW_REPLIED 4

#define FLOW_ORIGINATOR 0 /* index of the counters: from the originator */
#define FLOW_REPLY 1

/* X(name, number): what TCP flags have shown of a flow; other protocols use OPENING, ESTABLISHED. */
#define FLOW_STATES(X)                                                                             \
	X(OPENING, 0)                                                                              \
	X(ESTABLISHED, 1)                                                                          \
	X(CLOSING, 2)                                                                              \
	X(CLOSED, 3)

struct flow {
	__u64 created;    /* ns, CLOCK_MONOTONIC */
	__u64 seen;       /* ns, CLOCK_MONOTONIC */
	__u64 packets[2]; /* by direction: FLOW_ORIGINATOR, FLOW_REPLY */
	__u64 bytes[2];
	__u32 revision; /* of the policy that gave `verdict` */
	__u32 rule;
	__u32 proxy;  /* node-side interface of the proxy, 0: none */
	__u32 tenant; /* of the proxy */
	__u8 verdict;
	__u8 state;
	__u8 flags;
	__u8 fin; /* bit per direction that has sent FIN */
	__u32 pad;
};

/* fragments: what the first fragment of a datagram said, for those after it. */
struct fragment_key {
	struct address source;
	struct address destination;
	__u32 id;
	__u8 protocol; /* IPv6: 0, since reassembly there does not go by it */
	__u8 pad[3];
};

struct fragment {
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 pad[3];
};

/* tenants: tenant -> its proxy. */
struct tenant_key {
	__u32 tenant;
};

#define FAILURE_CLOSED 0
#define FAILURE_OPEN 1

struct tenant {
	__u32 proxy; /* node-side interface of the proxy, 0: none */
	__u8 ready;
	__u8 failure_mode; /* FAILURE_* */
	__u16 pad;
};

/* proxies: node-side interface of a proxy -> its tenant. */
struct proxy_key {
	__u32 ifindex;
};

struct proxy {
	__u32 tenant;
	__u8 mac[6]; /* of the proxy's own end */
	__u16 pad;
};

/* proxy_clients: whom a proxy may speak for. */
struct proxy_client_key {
	__u32 proxy; /* node-side interface */
	struct address client;
};

struct proxy_client {
	__u64 seen; /* ns, CLOCK_MONOTONIC: last packet of the client to this proxy */
};

/* counters, per CPU. `identity` is the workload's that the packet came from or went to. */
struct counter_key {
	__u32 identity;
	__u8 reason;    /* DROP_REASONS */
	__u8 direction; /* DIRECTION_*, as that workload sees it */
	__u16 pad;
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

/* stats, per CPU: one number each. X(name, index, what it counts) */
#define STATS(X)                                                                                   \
	X(EVENTS_LOST, 0, "events for which the ring buffer had no room")                          \
	X(CONNTRACK_FULL, 1, "flows that could not be entered")                                    \
	X(FAILED_OPEN, 2, "connections passed at layer 4 because the proxy was not ready")         \
	X(HANDOFFS, 3, "connections handed off")

/* settings: one entry, written by the agent. */
struct settings {
	__u32 revision; /* of the policy; a flow with another one is judged again */
	__u32 pending;  /* 1 while rows are written for which the revision has yet to move */
	__u64 trace;    /* secret that marks a packet made for a question; 0: none is */
};

/*
 * A packet made for a question carries the secret of `settings` in cb[0] and cb[1], and takes the
 * answer back in cb. It changes no map.
 */
struct answer {
	__u8 verdict;
	__u8 reason;
	__u16 mark;         /* ANSWER_MARK: the program has answered */
	__u32 egress_rule;  /* that judged the source's side, 0: none */
	__u32 ingress_rule; /* that judged the destination's side, 0: none */
	__u32 tenant;       /* whose proxy, when the verdict is HANDOFF */
	__u32 pad;
};

#define ANSWER_MARK 44051

/* X(name, number) */
#define EVENT_TYPES(X)                                                                             \
	X(DROP, 1)                                                                                 \
	X(POLICY, 2)                                                                               \
	X(HANDOFF, 3)

struct event {
	__u64 time; /* ns, CLOCK_MONOTONIC */
	struct address source;
	struct address destination;
	__u32 source_identity;
	__u32 destination_identity;
	__u32 rule;
	__u32 ifindex;           /* where the program ran */
	__u32 length;            /* bytes on the wire, link layer included */
	__u32 tenant;            /* handoff: whose proxy */
	__be16 source_port;      /* ICMP echo: the identifier in a request */
	__be16 destination_port; /* ICMP echo: the identifier in a reply */
	__u8 type;
	__u8 verdict;
	__u8 reason;
	__u8 direction;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 pad[6];
};

#endif
