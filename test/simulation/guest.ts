/**
 * What the guest knows of its vbds: per sector, which contents a read may return. It lives outside of all that
 * is tested, and is told of nothing but the guest's own requests, their answers, and losses of power.
 *
 * A sector's entries are the writes that may be its content. One is superseded by a write that was issued after
 * it was answered; for good, once that write is durable. After a loss of power every entry not superseded for
 * good may be what the disk holds, and nothing else: an older generation's content is never among them.
 */
import { SECTOR_BYTES } from "./disk.ts";

/** 0 is a sector of zeroes. */
export type Token = number;

type Entry = {
  token: Token;
  issuedAt: number;
  answeredAt: number;
  isDurable: boolean;
  /** A trim: reads as zero afterwards, or as before. */
  supersedes: boolean;
};

/** `buried`: superseded for good, but a read that was issued before may still return them. */
type Sector = { entries: Entry[]; buried: Entry[] };

const BURIED_MAX = 40;

export type Extent = { vbd: number; sector: number; count: number };
export type Write = Extent & { entries: Entry[] };

export class ContentModel {
  readonly #sectors: Sector[][];
  /** Orders what the guest does: a count, not a time. */
  #now = 1;
  /** The last loss of power. */
  #lostAt = -1;

  constructor(initial: readonly (readonly Token[])[]) {
    this.#sectors = initial.map((vbd) =>
      vbd.map((token) => ({
        entries: [{ token, issuedAt: 0, answeredAt: 0, isDurable: true, supersedes: true }],
        buried: [],
      })),
    );
  }

  sectorCount(vbd: number): number {
    return this.#sectors[vbd]!.length;
  }

  issue(extent: Extent, token: Token, { supersedes }: { supersedes: boolean }): Write {
    const issuedAt = ++this.#now;
    const entries = this.#of(extent).map((sector) => {
      const entry = { token, issuedAt, answeredAt: Number.POSITIVE_INFINITY, isDurable: false, supersedes };
      sector.entries.push(entry);
      return entry;
    });
    return { ...extent, entries };
  }

  answered(write: Write): void {
    const answeredAt = ++this.#now;
    for (const entry of write.entries) entry.answeredAt = answeredAt;
  }

  /** The time from which a read or a flush counts. */
  begin(): number {
    return ++this.#now;
  }

  /** A flush of the vbd that was issued at `since` was answered. */
  flushed(vbd: number, since: number): void {
    for (const sector of this.#sectors[vbd]!) {
      const { entries } = sector;
      if (entries.length === 1 && entries[0]!.isDurable) continue;
      for (const entry of entries) if (entry.answeredAt < since) entry.isDurable = true;
      prune(sector);
    }
  }

  /** Everything answered is durable: a handover rests on it. */
  flushedAll(): void {
    const since = this.begin();
    for (let vbd = 0; vbd < this.#sectors.length; vbd++) this.flushed(vbd, since);
  }

  /** The host lost its power: the guest is gone, and what it wrote since its last flush may be. */
  lostPower(): void {
    const at = ++this.#now;
    this.#lostAt = at;
    for (const sector of this.#sectors.flat()) {
      sector.buried.length = 0;
      for (const entry of sector.entries) {
        entry.issuedAt = at;
        entry.answeredAt = at;
      }
    }
  }

  /** Why the tokens are no possible content, or undefined. `since`: when the read was issued. */
  check(extent: Extent, tokens: readonly Token[], since: number): string | undefined {
    for (const [index, sector] of this.#of(extent).entries()) {
      const token = tokens[index]!;
      const all = [...sector.buried, ...sector.entries];
      const legal = all.filter((entry) => !isSuperseded(entry, all, since));
      if (legal.some((entry) => entry.token === token)) continue;
      const expected = legal.map((entry) => entry.token).join(" or ");
      return `sector ${extent.sector + index} of vbd ${extent.vbd} holds ${token}, the guest wrote ${expected}`;
    }
    return undefined;
  }

  /** A guest that starts after a loss of power has read it: the disk has settled on this content. */
  settled(extent: Extent, tokens: readonly Token[]): void {
    for (const [index, { entries }] of this.#of(extent).entries()) {
      // Only where nothing was written since.
      if (entries.some(({ issuedAt }) => issuedAt !== this.#lostAt)) continue;
      const token = tokens[index]!;
      entries.splice(0, entries.length, { ...entries[0]!, token, isDurable: true, supersedes: true });
    }
  }

  #of({ vbd, sector, count }: Extent): Sector[] {
    return this.#sectors[vbd]!.slice(sector, sector + count);
  }
}

function isSuperseded(entry: Entry, sector: readonly Entry[], since: number): boolean {
  return sector.some(
    (later) => later.supersedes && later.answeredAt < since && later.issuedAt > entry.answeredAt,
  );
}

function prune(sector: Sector): void {
  const { entries, buried } = sector;
  const isOver = (entry: Entry): boolean =>
    entries.some((later) => later.supersedes && later.isDurable && later.issuedAt > entry.answeredAt);
  const kept = entries.filter((entry) => !isOver(entry));
  if (kept.length === entries.length) return;
  buried.push(...entries.filter(isOver));
  buried.splice(0, Math.max(0, buried.length - BURIED_MAX));
  sector.entries = kept;
}

/** A sector's octets say its token at both ends, so that a torn one is seen. */
export function encodeSectors(tokens: readonly Token[]): Uint8Array {
  const words = new Uint32Array((tokens.length * SECTOR_BYTES) / 4);
  for (const [index, token] of tokens.entries()) {
    words[(index * SECTOR_BYTES) / 4] = token;
    words[((index + 1) * SECTOR_BYTES) / 4 - 1] = token;
  }
  return new Uint8Array(words.buffer);
}

/** The tokens; undefined for a torn sector. */
export function decodeSectors(bytes: Uint8Array): Token[] | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tokens: Token[] = [];
  for (let at = 0; at < bytes.length; at += SECTOR_BYTES) {
    const token = view.getUint32(at, true);
    if (view.getUint32(at + SECTOR_BYTES - 4, true) !== token) return undefined;
    tokens.push(token);
  }
  return tokens;
}
