const PARTS_MAX = 1024;

/**
 * Cuts a byte stream into lines. Holds at most one unfinished line of `lineSizeMax` bytes, whatever the
 * other end sends.
 */
export class LineSplitter {
  readonly #lineSizeMax: number;
  #parts: Uint8Array[] = [];
  #size = 0;

  constructor(lineSizeMax: number) {
    this.#lineSizeMax = lineSizeMax;
  }

  /** The lines that `chunk` completes, without their newline. Throws LineTooLong; then the stream is lost. */
  *push(chunk: Uint8Array): Generator<Uint8Array> {
    let start = 0;
    for (let end = chunk.indexOf(0x0a); end !== -1; end = chunk.indexOf(0x0a, start)) {
      this.#take(chunk.subarray(start, end));
      start = end + 1;
      const line = this.#parts.length === 1 ? this.#parts[0]! : Buffer.concat(this.#parts);
      this.#parts = [];
      this.#size = 0;
      yield line;
    }
    if (start < chunk.length) this.#take(chunk.subarray(start));
  }

  #take(part: Uint8Array): void {
    this.#size += part.length;
    if (this.#size > this.#lineSizeMax) throw new LineTooLong(this.#lineSizeMax);
    this.#parts.push(part);
    // A sender of single bytes must not cost a view object for each of them.
    if (this.#parts.length > PARTS_MAX) this.#parts = [Buffer.concat(this.#parts)];
  }
}

export class LineTooLong extends Error {
  readonly lineSizeMax: number;

  constructor(lineSizeMax: number) {
    super(`a line is longer than ${lineSizeMax} bytes`);
    this.name = "LineTooLong";
    this.lineSizeMax = lineSizeMax;
  }
}
