"""What goes over the wire: fields, pictures, events and errors, each in OpenAI's form with ours beside it."""
