/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the stages know about the packet in hand. Each stage reads what those before it found,
 * writes what it finds, and returns a drop reason; 0 means go on.
 */
#ifndef SLUICE_PACKET_H
#define SLUICE_PACKET_H

#include "abi.h"
#include "maps.h"

#define X_ENUM(name, number, ...) DROP_##name = number,
enum drop_reason { DROP_REASONS(X_ENUM) };
#undef X_ENUM
#define X_ENUM(name, number, ...) VERDICT_##name = number,
enum verdict { VERDICTS(X_ENUM) };
#undef X_ENUM
#define X_ENUM(name, number, ...) FLOW_##name = number,
enum flow_state { FLOW_STATES(X_ENUM) };
#undef X_ENUM
#define X_ENUM(name, number, ...) STAT_##name = number,
enum stat { STATS(X_ENUM) };
#undef X_ENUM
#define X_ENUM(name, number, ...) EVENT_##name = number,
enum event_type { EVENT_TYPES(X_ENUM) };
#undef X_ENUM

/* Which program has the packet. */
enum hook { FROM_WORKLOAD, TO_WORKLOAD, FROM_PROXY, TO_PROXY };

/* What kind of packet it is, as far as the stages treat kinds differently. */
enum kind {
	KIND_FLOW,       /* belongs to a flow of its own */
	KIND_ICMP_ERROR, /* speaks about another flow, whose ends are in the ports' place */
	KIND_ARP,
	KIND_NEIGHBOUR, /* IPv6 neighbour discovery or multicast listener report */
};

#define PACKET_HOST_TYPE 0      /* PACKET_HOST of if_packet.h */
#define PACKET_OTHERHOST_TYPE 3 /* PACKET_OTHERHOST: behind a bridge, for another MAC */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct packet {
	struct __sk_buff *skb;
	struct workload *workload;   /* behind the interface; NULL at a proxy's */
	struct local_addr *to_local; /* destination, when it lives on this node */
	struct proxy *to_proxy;      /* where to hand the packet to, or NULL */
	struct flow *flow;           /* NULL: none yet */
	struct address source;
	struct address destination;
	struct flow_key key;   /* of `flow`, or of the one to be made */
	__u64 now;             /* ns, CLOCK_MONOTONIC */
	__u32 source_identity; /* as a peer; 0: not asked for */
	__u32 destination_identity;
	__u32 l4;  /* offset of the transport header, bytes */
	__u32 end; /* offset of the IP datagram's end, bytes */
	__u32 fragment_id;
	__u32 denied_identity; /* whose policy denied, 0: nobody's */
	__u32 rule;
	__u32 egress_rule; /* that judged the source's side, 0: none */
	__u32 ingress_rule;
	__u32 tenant;            /* whose proxy, when the verdict is HANDOFF */
	__u32 proxy;             /* of the flow: node-side interface, 0: none */
	__be16 source_port;      /* ICMP echo: the identifier in a request */
	__be16 destination_port; /* ICMP echo: the identifier in a reply */
	__u16 fragment_offset;   /* bytes */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 is_ipv6;
	__u8 is_fragment;
	__u8 hook;         /* enum hook */
	__u8 kind;         /* enum kind */
	__u8 way;          /* FLOW_ORIGINATOR or FLOW_REPLY */
	__u8 verdict;      /* enum verdict */
	__u8 is_new;       /* the flow was opened by this packet */
	__u8 flow_flags;   /* of the flow to be made */
	__u8 is_replacing; /* a flow with the same ends ends with this one */
	__u8 replaced_leg;
	__u8 is_occupied;      /* a proxy's upstream leg has the same ends */
	__u8 denied_direction; /* of the policy that denied */
	__u8 is_question;      /* made for a question: changes no map */
};

static __always_inline bool same_address(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

static __always_inline bool opens_tcp(const struct packet *packet)
{
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

static __always_inline struct identity_value *find_identity(const struct address *address)
{
	struct identity_key key = {.prefixlen = 128, .address = *address};

	return identities.lookup(&key);
}

static __always_inline bool is_node(const struct address *address)
{
	struct identity_value *identity = find_identity(address);

	return identity && (identity->flags & IDENTITY_IS_NODE);
}

static __always_inline void count_stat(__u32 index)
{
	__u64 *number = stats.lookup(&index);

	if (number)
		*number += 1; /* per CPU */
}

#endif
