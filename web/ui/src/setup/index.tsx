// The setup wizard at /setup.
export default function Setup() {
    return null;
}
