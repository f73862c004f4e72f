// The administrators' console at /console.
export default function Console() {
    return null;
}
