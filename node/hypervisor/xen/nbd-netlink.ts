/**
 * The kernel's NBD client, spoken to by generic netlink: messages and their octets. All little-endian here, as the
 * machines are that run Xen on x86.
 *
 *    0        4      6       8         12     16    17        18   20
 *   +--------+------+-------+---------+------+-----+---------+----+----------------+
 *   | length | type | flags | sequence| port | cmd | version |    | attributes ... |
 *   +--------+------+-------+---------+------+-----+---------+----+----------------+
 *   attribute: u16 length with head, u16 type, data, padded to 4
 */

const NETLINK_HEAD_BYTES = 16;
const HEAD_BYTES = 20;
const ATTRIBUTE_HEAD_BYTES = 4;
const NLMSG_ERROR = 2;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLA_F_NESTED = 1 << 15;
const NLA_TYPE_MASK = 0x3fff;
/** The family that knows all others by their names. */
const CONTROL = { family: 16, getFamily: 3, familyId: 1, familyName: 2 } as const;
const FAMILY_NAME = "nbd";

export const NBD_NETLINK_CMD = { connect: 1, disconnect: 2, reconfigure: 3 } as const;
const ATTRIBUTE = {
  index: 1,
  sizeBytes: 2,
  blockSizeBytes: 3,
  serverFlags: 5,
  sockets: 7,
  deadConnectionTimeout: 8,
  backendIdentifier: 10,
} as const;
const SOCKET_ITEM = 1;
const SOCKET_FD = 1;

type Attribute = { type: number; data: Buffer };

export type NbdConnect = {
  sizeBytes: number;
  blockSizeBytes: number;
  /** NBD_FLAG bits of the export. */
  flags: number;
  fd: number;
  /** Requests wait so long for another connection before they fail. */
  deadConnectionSeconds: number;
  /** What the device says of itself in sysfs; a reconfiguration must say the same. */
  identifier: string;
};

export function encodeGetFamily(): Buffer {
  const name = { type: CONTROL.familyName, data: Buffer.from(`${FAMILY_NAME}\0`) };
  return encode({ family: CONTROL.family, command: CONTROL.getFamily, flags: NLM_F_REQUEST }, [name]);
}

/** Without an index: the kernel takes a free device, or makes one, and says which. */
export function encodeConnect(family: number, connect: NbdConnect): Buffer {
  return encode({ family, command: NBD_NETLINK_CMD.connect }, [
    u64(ATTRIBUTE.sizeBytes, connect.sizeBytes),
    u64(ATTRIBUTE.blockSizeBytes, connect.blockSizeBytes),
    u64(ATTRIBUTE.serverFlags, connect.flags),
    u64(ATTRIBUTE.deadConnectionTimeout, connect.deadConnectionSeconds),
    text(ATTRIBUTE.backendIdentifier, connect.identifier),
    sockets(connect.fd),
  ]);
}

/** Another connection in the place of one that is dead. The kernel says yes, too, where none is. */
export function encodeReconfigure(
  family: number,
  { index, fd, identifier }: { index: number; fd: number; identifier: string },
): Buffer {
  return encode({ family, command: NBD_NETLINK_CMD.reconfigure }, [
    u32(ATTRIBUTE.index, index),
    text(ATTRIBUTE.backendIdentifier, identifier),
    sockets(fd),
  ]);
}

export function encodeDisconnect(family: number, index: number): Buffer {
  return encode({ family, command: NBD_NETLINK_CMD.disconnect }, [u32(ATTRIBUTE.index, index)]);
}

export type NetlinkReply =
  | { type: "ack" }
  | { type: "error"; errno: number }
  | { type: "answer"; attributes: Attribute[] };

/** One datagram may hold several. Throws RangeError where it is cut short. */
export function decodeReplies(bytes: Buffer): NetlinkReply[] {
  const replies: NetlinkReply[] = [];
  let at = 0;
  while (at + NETLINK_HEAD_BYTES <= bytes.length) {
    const length = bytes.readUInt32LE(at);
    if (length < NETLINK_HEAD_BYTES || at + length > bytes.length)
      throw new RangeError("a netlink message is cut short");
    const message = bytes.subarray(at, at + length);
    if (message.readUInt16LE(4) === NLMSG_ERROR) {
      const errno = -message.readInt32LE(NETLINK_HEAD_BYTES);
      replies.push(errno === 0 ? { type: "ack" } : { type: "error", errno });
    } else replies.push({ type: "answer", attributes: attributesOf(message.subarray(HEAD_BYTES)) });
    at += padded(length);
  }
  return replies;
}

export function familyOf(attributes: readonly Attribute[]): number | undefined {
  return attributes.find(({ type }) => type === CONTROL.familyId)?.data.readUInt16LE(0);
}

export function indexOf(attributes: readonly Attribute[]): number | undefined {
  return attributes.find(({ type }) => type === ATTRIBUTE.index)?.data.readUInt32LE(0);
}

function encode(
  { family, command, flags = NLM_F_REQUEST | NLM_F_ACK }: { family: number; command: number; flags?: number },
  attributes: readonly Attribute[],
): Buffer {
  const body = Buffer.concat(attributes.map(attribute));
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt32LE(HEAD_BYTES + body.length, 0);
  head.writeUInt16LE(family, 4);
  head.writeUInt16LE(flags, 6);
  head.writeUInt8(command, 16);
  head.writeUInt8(1, 17);
  return Buffer.concat([head, body]);
}

function attribute({ type, data }: Attribute): Buffer {
  const bytes = Buffer.alloc(padded(ATTRIBUTE_HEAD_BYTES + data.length));
  bytes.writeUInt16LE(ATTRIBUTE_HEAD_BYTES + data.length, 0);
  bytes.writeUInt16LE(type, 2);
  data.copy(bytes, ATTRIBUTE_HEAD_BYTES);
  return bytes;
}

function attributesOf(bytes: Buffer): Attribute[] {
  const found: Attribute[] = [];
  for (let at = 0; at + ATTRIBUTE_HEAD_BYTES <= bytes.length; ) {
    const length = bytes.readUInt16LE(at);
    if (length < ATTRIBUTE_HEAD_BYTES) throw new RangeError("a netlink attribute is cut short");
    const data = bytes.subarray(at + ATTRIBUTE_HEAD_BYTES, at + length);
    found.push({ type: bytes.readUInt16LE(at + 2) & NLA_TYPE_MASK, data });
    at += padded(length);
  }
  return found;
}

function sockets(fd: number): Attribute {
  const item = { type: SOCKET_ITEM | NLA_F_NESTED, data: attribute(u32(SOCKET_FD, fd)) };
  return { type: ATTRIBUTE.sockets | NLA_F_NESTED, data: attribute(item) };
}

function u32(type: number, value: number): Attribute {
  const data = Buffer.alloc(4);
  data.writeUInt32LE(value);
  return { type, data };
}

function u64(type: number, value: number): Attribute {
  const data = Buffer.alloc(8);
  data.writeBigUInt64LE(BigInt(value));
  return { type, data };
}

function text(type: number, value: string): Attribute {
  return { type, data: Buffer.from(`${value}\0`) };
}

function padded(length: number): number {
  return Math.ceil(length / 4) * 4;
}
