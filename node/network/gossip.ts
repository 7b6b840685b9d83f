/**
 * News for everybody: what a host says once reaches every host that is connected with it, over however many others.
 * Best effort: who was away hears nothing of it later, so each topic has a comparison of its own beside it.
 */

import type { HostId } from "./network.ts";

/**
 * What is to become of a message. `accept`: it is news, and told on. `ignore`: known, or not to be judged here.
 * `reject`: no honest host would have passed it on; who does so again and again is not listened to any more.
 */
export type GossipVerdict = "accept" | "ignore" | "reject";

export type GossipMessage = {
  /** Who made it: the signature on it was checked. */
  readonly author: HostId;
  /** Who brought it here. */
  readonly from: HostId;
  readonly data: Uint8Array;
};

export type GossipJudge = (message: GossipMessage) => GossipVerdict | Promise<GossipVerdict>;

export interface Gossip {
  /** `judge` sees each message of the topic once, before anybody else gets it from here. Before the network starts. */
  listen(topic: string, judge: GossipJudge): void;
  /** At most `GOSSIP_DATA_SIZE_MAX` octets. May be lost. */
  publish(topic: string, data: Uint8Array): void;
}

/** Octets of one message's data. */
export const GOSSIP_DATA_SIZE_MAX = 64 << 10;

/** What the key of a connection must allow: on others nothing is gossiped. */
export const GOSSIP_ADMISSION = "/sojourn/cluster/gossip/1.0.0";
