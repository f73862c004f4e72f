// A QR code as the two devices of a sign-in use it: bytes, not text. It is dark on white in every theme, for cameras.
import { useMemo } from "react";
import encodeQR from "qr";

// The quiet zone that the standard wants around a code, in modules.
const quiet = 4;

/** modules gives the dark squares of the code of some bytes, row by row, with the quiet zone. */
export function modules(bytes: Uint8Array): boolean[][] {
    // The proposal's level of error correction. The text is not looked at: the bytes are what is drawn.
    return encodeQR("", "raw", { ecc: "quartile", encoding: "byte", border: quiet, textEncoder: () => bytes });
}

export function QrCode({ bytes, label }: { bytes: Uint8Array; label: string }) {
    const { size, path } = useMemo(() => {
        const rows = modules(bytes);
        // One run of dark squares is one rectangle: fewer seams.
        const runs = rows.flatMap((row, y) => row.flatMap((dark, x) => (dark && !row[x - 1] ? [`M${x} ${y}h${runLength(row, x)}v1h-${runLength(row, x)}z`] : [])));
        return { size: rows.length, path: runs.join("") };
    }, [bytes]);
    return (
        <svg className="hf-pair-code" viewBox={`0 0 ${size} ${size}`} shapeRendering="crispEdges" role="img" aria-label={label} data-testid="qr-code">
            <rect width={size} height={size} fill="#fff" />
            <path d={path} fill="#000" />
        </svg>
    );
}

function runLength(row: boolean[], from: number): number {
    let n = 0;
    while (row[from + n]) n++;
    return n;
}
