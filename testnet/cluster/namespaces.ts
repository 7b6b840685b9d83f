/**
 * Network namespaces for the hosts of a cluster, in two halves that one cable joins. Needs root and `ip`.
 *
 *   host ── veth ── bridge of the left half ── cable ── bridge of the right half ── veth ── host
 */

import { execFileSync } from "node:child_process";
import type { Place } from "../cluster.ts";

const CABLE = "cable0";
const SUBNET = "10.213.77";

export class Namespaces {
  readonly #prefix = `sj${process.pid}`;
  readonly #names: readonly string[];

  /** The first half of the hosts is left of the cable. */
  constructor(names: readonly string[]) {
    this.#names = names;
  }

  get #hub(): string {
    return `${this.#prefix}-hub`;
  }

  start(): void {
    ip("netns", "add", this.#hub);
    for (const bridge of ["left", "right"]) {
      inside(this.#hub, "link", "add", bridge, "type", "bridge");
      inside(this.#hub, "link", "set", bridge, "up");
    }
    inside(this.#hub, "link", "add", CABLE, "type", "veth", "peer", "name", "cable1");
    inside(this.#hub, "link", "set", CABLE, "master", "left", "up");
    inside(this.#hub, "link", "set", "cable1", "master", "right", "up");
    for (const [index, name] of this.#names.entries()) {
      const namespace = this.#of(name);
      ip("netns", "add", namespace);
      inside(namespace, "link", "set", "lo", "up");
      inside(
        this.#hub,
        "link",
        "add",
        `p${index}`,
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        namespace,
      );
      inside(this.#hub, "link", "set", `p${index}`, "master", this.isLeft(name) ? "left" : "right", "up");
      inside(namespace, "addr", "add", `${this.#address(name)}/24`, "dev", "eth0");
      inside(namespace, "link", "set", "eth0", "up");
    }
  }

  isLeft(name: string): boolean {
    return this.#names.indexOf(name) < this.#names.length / 2;
  }

  place(name: string): Place {
    return { ip: this.#address(name), within: ["ip", "netns", "exec", this.#of(name)] };
  }

  cut(): void {
    inside(this.#hub, "link", "set", CABLE, "down");
  }

  heal(): void {
    inside(this.#hub, "link", "set", CABLE, "up");
  }

  stop(): void {
    for (const namespace of [...this.#names.map((name) => this.#of(name)), this.#hub]) {
      try {
        ip("netns", "del", namespace);
      } catch {
        // It was never made.
      }
    }
  }

  #of(name: string): string {
    return `${this.#prefix}-${name}`;
  }

  #address(name: string): string {
    return `${SUBNET}.${this.#names.indexOf(name) + 1}`;
  }
}

function ip(...args: string[]): void {
  execFileSync("ip", args, { stdio: ["ignore", "ignore", "pipe"] });
}

function inside(namespace: string, ...args: string[]): void {
  ip("-n", namespace, ...args);
}
