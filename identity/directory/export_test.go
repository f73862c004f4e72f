package directory

// Refusal is what a directory's answer to a person's password means.
func Refusal(err error) error { return (&Directory{}).refusal(err) }
