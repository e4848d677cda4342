"""Many runs compared: studies, searches for settings, and reports of runs and studies."""
