/** What hosts of one cluster must agree on about membership, and what none may exceed. Not configuration. */

/** The libp2p protocol id of the long-lived stream that carries membership. */
export const MEMBERSHIP_PROTOCOL = "/sojourn/membership/1.0.0";

/** Octets of one message; a receiver allocates no more for a peer. Larger states are sent in parts. */
export const MEMBERSHIP_MESSAGE_SIZE_MAX = 256 << 10;

/** Octets of updates in one part of a state, well under the limit of a message. */
export const STATE_PART_SIZE_MAX = 128 << 10;

/** Leaves 2^52 refutations to a host whose incarnations begin with the wall clock in milliseconds. */
export const INCARNATION_MAX = Number.MAX_SAFE_INTEGER - 1;

/** Characters of a host's id. */
export const HOST_LENGTH_MAX = 128;

/** Characters of a host's name. */
export const HOST_NAME_LENGTH_MAX = 64;

export const ADDRESSES_MAX = 8;
export const ADDRESS_LENGTH_MAX = 200;

/** Ed25519. */
export const SIGNATURE_SIZE = 64;

/** Accusations of one update: no preset waits for more confirmations. */
export const ACCUSATIONS_MAX = 8;

export const SEQUENCE_MAX = 2 ** 32 - 1;

export const DOMAIN_COUNT_MAX = 1_000_000;
