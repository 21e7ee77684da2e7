/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Inside a proxy's namespace: a packet of a connection that has a socket is left to the stack;
 * one that has none is given to the transparent listener, whatever address it was sent to.
 */
#ifndef SLUICE_TPROXY_H
#define SLUICE_TPROXY_H

#include "packet.h"

static __always_inline __u32 socket_tuple(const struct packet *packet, struct bpf_sock_tuple *tuple)
{
	if (packet->is_ipv6) {
		__builtin_memcpy(tuple->ipv6.saddr, &packet->source, 16);
		__builtin_memcpy(tuple->ipv6.daddr, &packet->destination, 16);
		tuple->ipv6.sport = packet->source_port;
		tuple->ipv6.dport = packet->destination_port;
		return sizeof(tuple->ipv6);
	}
	tuple->ipv4.saddr = packet->source.word[3];
	tuple->ipv4.daddr = packet->destination.word[3];
	tuple->ipv4.sport = packet->source_port;
	tuple->ipv4.dport = packet->destination_port;
	return sizeof(tuple->ipv4);
}

static __always_inline void address_listener(const struct packet *packet,
                                             struct bpf_sock_tuple *tuple)
{
	if (packet->is_ipv6) {
		__builtin_memset(tuple->ipv6.daddr, 0, 12);
		tuple->ipv6.daddr[3] = bpf_htonl(1); /* ::1 */
		tuple->ipv6.dport = bpf_htons(PROXY_PORT);
	} else {
		tuple->ipv4.daddr = bpf_htonl(0x7f000001);
		tuple->ipv4.dport = bpf_htons(PROXY_PORT);
	}
}

static __always_inline int assign_listener(struct packet *packet, struct bpf_sock_tuple *tuple,
                                           __u32 size)
{
	struct bpf_sock *listener;
	int error;

	address_listener(packet, tuple);
	listener = bpf_skc_lookup_tcp(packet->skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!listener)
		return DROP_NO_LISTENER;
	error = listener->state == BPF_TCP_LISTEN ? bpf_sk_assign(packet->skb, listener, 0) : -1;
	bpf_sk_release(listener);
	return error ? DROP_NO_LISTENER : DROP_NONE;
}

static __always_inline int assign_socket(struct packet *packet)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	__u32 size;
	bool connected;

	if (packet->kind != KIND_FLOW || packet->protocol != IPPROTO_TCP || packet->is_fragment)
		return DROP_NONE; /* what is put together again, and ICMP errors, find their socket */
	size = socket_tuple(packet, &tuple);
	socket = bpf_skc_lookup_tcp(packet->skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (socket) {
		connected = socket->state != BPF_TCP_LISTEN;
		bpf_sk_release(socket);
		if (connected)
			return DROP_NONE;
	}
	return assign_listener(packet, &tuple, size);
}

#endif
