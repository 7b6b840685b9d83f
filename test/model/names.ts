/**
 * Names for worlds. Two worlds get the same name when the same can happen from them, but for how many faults are left.
 * What cannot matter any more is left out of a name, or said in one way only: the order of answers on their way, which
 * arrive in any order; what is the same throughout a migration.
 */

import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { BlockSender } from "../../protocol/block-sender.ts";
import { HashDescent } from "../../protocol/hash-descent.ts";
import type { DomainRecord } from "../../storage/records.ts";
import { type Journal, maskOf, type World } from "./state.ts";

/** Shared by thousands of hosts and links, and never changed: named once each. */
const SHARED: ReadonlySet<string> = new Set(["journal", "state", "asked", "theirs"]);
/** Lists whose items are shared likewise. */
const QUEUES: ReadonlySet<string> = new Set(["toDestination", "toSource"]);
/** Lists without an order, of shared items. */
const HEAPS: ReadonlySet<string> = new Set(["pending", "recoveries"]);

export class WorldNames {
  readonly #numbers = new Map<string, number>();
  readonly #known = new WeakMap<object, number>();

  /** A number for each host, for each of `hopsMax` links, and two for all the rest. */
  nameOf({ hosts, links, truth, writesLeft, hops }: World, hopsMax: number): number[] {
    const tuple: number[] = [];
    for (const host of Object.values(hosts)) tuple.push(this.#numberOf(host));
    for (const link of Object.values(links)) tuple.push(this.#numberOf(link));
    for (let hop = hops; hop < hopsMax; hop++) tuple.push(0);
    tuple.push(this.#numberOf(truth), writesLeft);
    return tuple;
  }

  #numberOf(part: object): number {
    const known = this.#known.get(part);
    if (known !== undefined) return known;
    const text = this.#textOf(part);
    let number = this.#numbers.get(text);
    // 0 is no part.
    if (number === undefined) this.#numbers.set(text, (number = this.#numbers.size + 1));
    this.#known.set(part, number);
    return number;
  }

  #textOf(value: unknown): string {
    if (typeof value !== "object") return `${value as string}`;
    if (value === null) return "-";
    if (value instanceof BlockBitmap) return `b${maskOf(value)}`;
    if (value instanceof BlockSender || value instanceof HashDescent) return this.#textOf(value.snapshot());
    if (value instanceof Uint8Array) return `x${value.length < 64 ? value.join() : value.length}`;
    let text = "";
    if (Array.isArray(value) || value instanceof Map || value instanceof Set) {
      for (const item of value) text += `${this.#textOf(item)},`;
      return `[${text}]`;
    }
    for (const key in value) {
      if (key === "context") continue;
      text += this.#fieldOf(key, (value as Record<string, unknown>)[key]);
    }
    return `{${text}}`;
  }

  #fieldOf(key: string, item: unknown): string {
    if (key === "domain") return summaryOf(item);
    if (key === "custody") return `${custodyText(item as Journal["custody"])},`;
    if (item === undefined) return `${key},`;
    if (SHARED.has(key) && typeof item === "object") return `${key}:${this.#numberOf(item!)},`;
    if (!Array.isArray(item) || item.length === 0) return `${key}:${this.#textOf(item)},`;
    if (QUEUES.has(key)) return `${key}:${item.map((each: object) => this.#numberOf(each)).join()};`;
    if (!HEAPS.has(key)) return `${key}:${this.#textOf(item)},`;
    return `${key}:${item
      .map((each: object) => this.#numberOf(each))
      .sort()
      .join()};`;
  }
}

function summaryOf(item: unknown): string {
  const { generation, owner, state } = (item ?? {}) as Partial<DomainRecord>;
  return `${generation}${owner}${state},`;
}

function custodyText(custody: Journal["custody"]): string {
  if (custody === undefined) return "";
  return custody
    .map(({ certificate, fromSignature, toSignature }) => {
      const { generation, kind, from, to, previous } = certificate;
      const signatures = `${fromSignature === undefined ? "" : "f"}${toSignature === undefined ? "" : "t"}`;
      return `${generation}${kind}${from}${to}${previous.slice(0, 8)}${signatures}`;
    })
    .join(";");
}
