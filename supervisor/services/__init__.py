"""The Sandbox API and the Task API: what each call means, and in which states it is allowed."""
