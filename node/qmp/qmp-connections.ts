/**
 * One connection per QMP socket for all parts of this process: a second client of the same socket would wait
 * for the first one to leave.
 */

import { QmpClient, type QmpConnectOptions } from "./qmp-client.ts";

type Shared = { client: Promise<QmpClient>; users: number };

/** One part's use of a connection. `release` is idempotent; the last one closes the connection. */
export type QmpLease = { readonly client: QmpClient; release(): void };

export class QmpConnections {
  readonly #shared = new Map<string, Shared>();
  readonly #options: QmpConnectOptions;

  constructor(options: QmpConnectOptions = {}) {
    this.#options = options;
  }

  /** Connects, or joins those who have. After a loss the next call connects anew. Throws as `QmpClient.connect`. */
  async acquire(path: string): Promise<QmpLease> {
    const shared = this.#shared.get(path) ?? this.#connect(path);
    shared.users++;
    try {
      const client = await shared.client;
      let isReleased = false;
      const release = (): void => {
        if (isReleased) return;
        isReleased = true;
        this.#leave(path, shared);
      };
      return { client, release };
    } catch (error) {
      this.#leave(path, shared);
      throw error;
    }
  }

  #connect(path: string): Shared {
    const client = QmpClient.connect(path, this.#options);
    const shared = { client, users: 0 };
    this.#shared.set(path, shared);
    const forget = (): void => this.#forget(path, shared);
    void client.then((connected) => connected.onLoss(forget), forget);
    return shared;
  }

  #leave(path: string, shared: Shared): void {
    shared.users--;
    if (shared.users > 0) return;
    this.#forget(path, shared);
    void shared.client.then(
      (client) => client.close(),
      () => {},
    );
  }

  #forget(path: string, shared: Shared): void {
    if (this.#shared.get(path) === shared) this.#shared.delete(path);
  }
}
