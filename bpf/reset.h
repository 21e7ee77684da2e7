/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Refusing a TCP connection so that its client notices at once: the packet becomes the reset that
 * a host without a listener would send (RFC 9293, 3.10.7.1) and goes back where it came from.
 * Called after accounting: to the counters the packet is a drop.
 */
#ifndef SLUICE_RESET_H
#define SLUICE_RESET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include "packet.h"

#define RESET_HOP_LIMIT 64

/* What the checksum covers beside the segment; both IP versions sum up alike over 128 bits. */
struct pseudo_header {
	struct address source;
	struct address destination;
	__be32 length;
	__be32 protocol;
};

static __always_inline __be16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* An IPv4 address counts as its 32 bits alone. */
static __always_inline void summed_address(struct address *to, const struct address *from,
                                           bool is_ipv6)
{
	*to = *from;
	if (!is_ipv6)
		to->word[2] = 0;
}

/* The answer to segment `got`, whose data is `data` bytes long. */
static __always_inline void make_segment(struct packet *packet, const struct tcphdr *got,
                                         __u32 data, struct tcphdr *tcp)
{
	struct pseudo_header pseudo = {
		.length = bpf_htonl(sizeof(*tcp)),
		.protocol = bpf_htonl(IPPROTO_TCP),
	};

	summed_address(&pseudo.source, &packet->destination, packet->is_ipv6);
	summed_address(&pseudo.destination, &packet->source, packet->is_ipv6);
	tcp->source = got->dest;
	tcp->dest = got->source;
	tcp->doff = sizeof(*tcp) / 4;
	tcp->rst = 1;
	if (got->ack) {
		tcp->seq = got->ack_seq;
	} else {
		tcp->ack = 1;
		tcp->ack_seq = bpf_htonl(bpf_ntohl(got->seq) + data + got->syn + got->fin);
	}
	tcp->check =
		fold(bpf_csum_diff(NULL, 0, (__be32 *)tcp, sizeof(*tcp),
	                           bpf_csum_diff(NULL, 0, (__be32 *)&pseudo, sizeof(pseudo), 0)));
}

static __always_inline void put_ipv4(struct packet *packet)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(sizeof(struct iphdr) + sizeof(struct tcphdr)),
		.frag_off = bpf_htons(0x4000), /* don't fragment */
		.ttl = RESET_HOP_LIMIT,
		.protocol = IPPROTO_TCP,
		.saddr = packet->destination.word[3],
		.daddr = packet->source.word[3],
	};

	ip.check = fold(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
	bpf_skb_store_bytes(packet->skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline void put_ipv6(struct packet *packet)
{
	struct ipv6hdr ip = {
		.version = 6,
		.payload_len = bpf_htons(sizeof(struct tcphdr)),
		.nexthdr = IPPROTO_TCP,
		.hop_limit = RESET_HOP_LIMIT,
	};

	__builtin_memcpy(&ip.saddr, &packet->destination, sizeof(ip.saddr));
	__builtin_memcpy(&ip.daddr, &packet->source, sizeof(ip.daddr));
	bpf_skb_store_bytes(packet->skb, ETH_HLEN, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline void swap_macs(struct __sk_buff *skb)
{
	__u8 macs[2 * ETH_ALEN];

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return;
	bpf_skb_store_bytes(skb, 0, macs + ETH_ALEN, ETH_ALEN, 0);
	bpf_skb_store_bytes(skb, ETH_ALEN, macs, ETH_ALEN, 0);
}

/* Turns the packet into the reset; false: it cannot be done, and the packet is to be dropped. */
static __always_inline bool turn_into_reset(struct packet *packet)
{
	__u32 network = packet->is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct tcphdr got, tcp = {};

	if (packet->kind != KIND_FLOW || packet->protocol != IPPROTO_TCP || packet->is_fragment ||
	    (packet->tcp_flags & TCP_RST))
		return false;
	if (bpf_skb_load_bytes(packet->skb, packet->l4, &got, sizeof(got)))
		return false;
	make_segment(packet, &got, packet->end - packet->l4 - got.doff * 4, &tcp);
	if (bpf_skb_change_tail(packet->skb, ETH_HLEN + network + sizeof(tcp), 0))
		return false;
	swap_macs(packet->skb);
	if (packet->is_ipv6)
		put_ipv6(packet);
	else
		put_ipv4(packet);
	bpf_skb_store_bytes(packet->skb, ETH_HLEN + network, &tcp, sizeof(tcp),
	                    BPF_F_RECOMPUTE_CSUM);
	return true;
}

#endif
