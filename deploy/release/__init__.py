"""What a release needs beside the product itself: its bill of materials, and checks of what it is made of."""
