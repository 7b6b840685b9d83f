import { MessageChannel, type MessagePort } from "node:worker_threads";
import { afterEach, describe, expect, it } from "vitest";
import { NodeError } from "../../../node/errors.ts";
import { Rpc, type RpcPort } from "../../../node/rpc/rpc.ts";

const open: MessagePort[] = [];
afterEach(() => {
  for (const port of open.splice(0)) port.close();
});

function portOf(port: MessagePort): RpcPort {
  open.push(port);
  return {
    post: (message) => port.postMessage(message),
    onMessage: (listener) => port.on("message", listener),
    onClose: (listener) => port.on("close", listener),
  };
}

class Books {
  readonly #titles = ["one"];

  get(index: number): string | undefined {
    return this.#titles[index];
  }

  add(title: string): number {
    return this.#titles.push(title);
  }
}

class Shelf {
  readonly books = new Books();

  async never(): Promise<void> {
    await new Promise(() => undefined);
  }

  refuse(): void {
    throw new NodeError("DOMAIN_UNKNOWN", { query: "x" });
  }

  echo(bytes: Uint8Array): Uint8Array {
    return bytes;
  }
}

function pair(): { rpc: Rpc; other: Rpc; port: MessagePort } {
  const { port1, port2 } = new MessageChannel();
  const other = new Rpc(portOf(port2), new Shelf());
  const rpc = new Rpc(portOf(port1), {});
  return { rpc, other, port: port2 };
}

describe("rpc", () => {
  it("calls methods of members, with their own this", async () => {
    const { rpc } = pair();
    const shelf = rpc.remote<Shelf>();
    expect(await shelf.books.add("two")).toBe(2);
    expect(await shelf.books.get(1)).toBe("two");
    expect(await shelf.books.get(9)).toBeUndefined();
  });

  it("copies bytes", async () => {
    const { rpc } = pair();
    expect([...(await rpc.remote<Shelf>().echo(new Uint8Array([1, 2])))]).toEqual([1, 2]);
  });

  it("carries an error's code, text and facts", async () => {
    const { rpc } = pair();
    await expect(rpc.remote<Shelf>().refuse()).rejects.toMatchObject({
      code: "DOMAIN_UNKNOWN",
      message: expect.stringContaining('"x"'),
      detail: { query: "x" },
    });
  });

  it("refuses what is no method", async () => {
    const { rpc } = pair();
    const shelf = rpc.remote<{ nothing(): void }>();
    await expect(shelf.nothing()).rejects.toMatchObject({ code: "RPC_NO_METHOD" });
  });

  it("fails every open call when the other process is gone, and every later one", async () => {
    const { rpc, port } = pair();
    const waiting = rpc.remote<Shelf>().never();
    port.close();
    await expect(waiting).rejects.toMatchObject({ code: "RPC_LOST" });
    await expect(rpc.remote<Shelf>().never()).rejects.toMatchObject({ code: "RPC_LOST" });
  });

  it("delivers notices without an answer", async () => {
    const { rpc, other } = pair();
    const heard = Promise.withResolvers<number>();
    rpc.onNotice<number>("changed", heard.resolve);
    other.notify("changed", 5);
    expect(await heard.promise).toBe(5);
  });
});
