/**
 * What two peers must agree on, and what neither may exceed. Not configuration: a change here is a
 * change of the protocol's version (PROTOCOL.md §2.4, §12.1).
 */

/** Sent in the first message of every session; a peer with another one is refused by name. */
export const PROTOCOL_VERSION = 1;

/** The libp2p protocol id of the migration's main stream: messages, blocks. */
export const MIGRATION_PROTOCOL = "/sojourn/migrate/1.0.0";

/** The libp2p protocol id of a migration's memory stream, on a connection of its own. */
export const MEMORY_PROTOCOL = "/sojourn/memory/1.0.0";

/** The libp2p protocol id of questions between hosts on the control connection. */
export const HOSTS_PROTOCOL = "/sojourn/hosts/1.0.0";

/** Body of one wire frame. 1 MiB of blocks and its extent list fit; a receiver allocates no more for a peer. */
export const FRAME_BODY_SIZE_MAX = (1 << 20) + (64 << 10);

/** Blocks in one `blocks` message, 1 MiB: a pulled block waits for at most one pushed message to be sent. */
export const BLOCKS_PER_MESSAGE_MAX = 256;

/** Bytes of the hypervisor's stream in one `memory` message. */
export const MEMORY_CHUNK_SIZE_MAX = 256 << 10;

/** A message larger than one frame is split; no message may be larger than this in all. */
export const MESSAGE_SIZE_MAX = 64 << 20;

export const VBDS_MAX = 64;
export const NAME_LENGTH_MAX = 128;

/** 16 TiB of 4 KiB blocks. */
export const BLOCK_COUNT_MAX = 2 ** 32;

/** Blocks per hash region of the ladder's second rung: 4 MiB. */
export const HASH_REGION_BLOCKS = 1024;

/** Octets of one digest of the ladder: SHA-256 cut to 128 bit. */
export const DIGEST_SIZE_BYTES = 16;

/** Digests in one `hashes` message. */
export const DIGESTS_PER_MESSAGE_MAX = 4096;
