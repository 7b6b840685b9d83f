/** A connection to a unix socket of this host, once it is there. */

import { connect, type Socket } from "node:net";

/** Rejects with the system's error where nobody listens. What fails later is told by each write, and by its end. */
export function connectUnix(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    // Stays: an error that nobody listens for would end the process.
    socket.on("error", reject);
    socket.once("connect", () => resolve(socket));
  });
}
